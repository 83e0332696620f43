"""How training ends: early, on several ranks, after a kill between the last step and the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts import Artifact
from tasks.foundation.errors import DivergenceError, IntegrityError, ModelError
from tasks.launch import Layout
from tasks.models.values import BaseModel
from tasks.training import session
from tasks.training import trainer as trainer_module
from tasks.training.audit import ParameterAudit, checksums, verdict
from tasks.training.recorder import Recorder
from tasks.training.recording import read_metrics
from tasks.training.session import build_model, read_rows
from tasks.training.settings import TrainingSettings
from tasks.training.values import TrainCost, TrainRequest, TrainResult
from tests.training.worlds import (
    LORA,
    QUICK,
    in_child,
    kill_this_process,
    loss_series,
    request_in,
    toy_cell,
    trained,
    write_tokens,
)

FULL = {"kind": "full", "learning_rate": 1e-3}
TOO_FAST = LORA | {"learning_rate": 0.5}
"""With this constant rate the loss is lowest early."""


def settings_with(**changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


def rising(**changes: object) -> TrainingSettings:
    return settings_with(lr_scheduler_type="constant", warmup_ratio=0.0, eval_steps=2, **changes)


def killed_before(name: str, request: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until the session would call one of its own functions, then SIGKILL."""
    with monkeypatch.context() as patch:
        patch.setattr(session, name, lambda *_: kill_this_process())
        assert in_child(partial(trained, request)) == -9


def test_killed_after_an_early_stop_it_does_not_train_on(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = toy_cell(base, tokens, TOO_FAST, rising(max_steps=40, early_stopping_patience=1))
    whole = trained(request_in(tmp_path / "whole", cell))
    request = request_in(tmp_path / "killed", cell)
    killed_before("finish", request, monkeypatch)
    assert whole.steps < 40
    assert trained(request) == whole


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_before_its_result_it_gives_the_same_result_and_writes_no_line_twice(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    cell = toy_cell(base, tokens, LORA, settings_with(precision=precision))
    whole = trained(request_in(tmp_path / "whole", cell))
    request = request_in(tmp_path / "killed", cell)
    killed_before("_result", request, monkeypatch)
    with (request.work / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step":8,"torn')
    shutil.rmtree(request.output / "adapter")
    assert trained(request) == whole
    lines = [(line.step, sorted(line.values)) for line in read_metrics(request.work / "metrics.jsonl")]
    assert len(lines) == len({(step, *names) for step, names in lines}) == 9
    cost = TrainCost.model_validate_json((request.output / "cost.json").read_text(encoding="utf-8"))
    assert cost.step_seconds_median > 0 < cost.tokens_per_second
    assert cost.train_seconds > sum(
        line.values.get("perf/step_seconds", 0) for line in read_metrics(request.work / "metrics.jsonl")
    )


def test_best_weights_that_were_damaged_meanwhile_are_never_taken(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = toy_cell(base, tokens, TOO_FAST, rising(max_steps=12, keep_best=True, save_total_limit=1))
    best = trained(request_in(tmp_path / "whole", cell)).best_step
    request = request_in(tmp_path / "damaged", cell)
    killed_before("finish", request, monkeypatch)
    victim = request.work / "checkpoints" / f"step-{best:08d}" / "trainable.safetensors"
    content = victim.read_bytes()
    victim.write_bytes(bytes([*content[:-2], content[-2] ^ 16, content[-1]]))
    with pytest.raises(IntegrityError, match="the checkpoint with the best loss is damaged"):
        trained(request)
    assert not (request.output / "result.json").exists()


@pytest.mark.parametrize("changes", [{}, {"eval_steps": 2, "keep_best": True}], ids=["at the end", "on the way"])
def test_an_evaluation_loss_that_is_not_finite_fails_the_cell(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA, settings_with(**changes)))
    honest = trainer_module.cross_entropy_sum
    monkeypatch.setattr(trainer_module, "cross_entropy_sum", lambda *given: honest(*given) * float("nan"))
    with pytest.raises(DivergenceError, match="evaluation loss became nan at step"):
        trained(request)
    assert not (request.output / "result.json").exists()


def test_the_last_step_is_logged_however_rarely_losses_are(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    each = trained(request_in(tmp_path / "each", toy_cell(base, tokens, LORA, settings_with(max_steps=5))))
    request = request_in(
        tmp_path / "rare", toy_cell(base, tokens, LORA, settings_with(max_steps=5, logging_steps=10, save_steps=10))
    )
    rare = trained(request)
    losses = [loss for _, loss in loss_series(request_in(tmp_path / "each", toy_cell(base, tokens, LORA)))]
    assert rare.weights_digest == each.weights_digest
    assert loss_series(request) == [(5, pytest.approx(sum(losses) / 5))]


def test_the_first_rates_of_a_long_warm_up_move_less_than_a_bit_and_that_is_no_failure(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = settings_with(max_steps=40_000, save_steps=1000)
    request = request_in(tmp_path, toy_cell(base, tokens, FULL | {"learning_rate": 2e-5}, long))
    on_step_end = Recorder.on_step_end

    def ending(self: Recorder, args, state, control, **given) -> None:
        on_step_end(self, args, state, control, **given)
        control.should_training_stop = control.should_save = state.global_step == 4

    monkeypatch.setattr(Recorder, "on_step_end", ending)
    assert trained(request).steps == 4
    assert "moved by less than a bit" in caplog.text


def test_a_tensor_that_the_optimiser_does_not_hold_still_fails(base: BaseModel, tokens: Artifact) -> None:
    cell = toy_cell(base, tokens, LORA)
    model = build_model(cell, session.parse_method(LORA), read_rows(cell))
    trainable = [(name, part) for name, part in model.named_parameters() if part.requires_grad]
    forgotten, _ = trainable[0]
    audit = ParameterAudit(model)
    audit._before = checksums(model)
    for _, part in trainable:
        part.grad = torch.ones_like(part)
    optimizer = torch.optim.SGD([part for _, part in trainable[1:]], lr=1e-30)
    audit.on_pre_optimizer_step(None, None, None, optimizer=optimizer)
    with pytest.raises(ModelError, match=f"^1 trainable tensors did not change in the first steps, first {forgotten}"):
        verdict(model, audit._before, audit._touched, audit._updated)


def test_a_run_whose_every_step_has_rate_0_is_no_success(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, FULL, settings_with(max_steps=1)))
    with pytest.raises(ModelError, match="their learning rate is 0"):
        trained(request)


def test_a_checksum_of_pieces_is_that_of_the_whole() -> None:
    model = torch.nn.Linear(1 << 11, 1 << 10, bias=False)
    before = checksums(model)
    bits = model.weight.detach().view(-1).view(torch.int32).to(torch.int64)
    weighted = (bits * torch.arange(1, bits.numel() + 1)).sum().item()
    assert before == {"weight": (bits.sum().item(), weighted)}


def test_two_ranks_train_like_one_and_count_the_tokens_of_both(base: BaseModel, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "tokens", rows=12)
    results, costs = {}, {}
    for ranks in (1, 2):
        settings = settings_with(
            per_device_train_batch_size=4 // ranks, optim="sgd", max_grad_norm=0.0, max_steps=6, eval_steps=4
        )
        cell = toy_cell(base, tokens, FULL, settings).model_copy(update={"layout": Layout(ranks_per_node=ranks)})
        request = request_in(tmp_path / str(ranks), cell)
        results[ranks] = trained(request) if ranks == 1 else run_ranks(request)
        costs[ranks] = json.loads((request.output / "cost.json").read_text(encoding="utf-8"))
        seconds = costs[ranks]["tokens_per_second"]
        steps = [line.values.get("perf/step_seconds", 0.0) for line in read_metrics(request.work / "metrics.jsonl")]
        assert seconds == pytest.approx(results[ranks].train_tokens / sum(steps), rel=1e-3)
    one, two = (load_file(next((tmp_path / name / "output").rglob("*.safetensors"))) for name in ("1", "2"))
    assert max((one[name] - two[name]).abs().max().item() for name in one) < 1e-6
    assert results[1].train_tokens == results[2].train_tokens
    assert results[1].eval_loss == pytest.approx(results[2].eval_loss, abs=1e-5)


def run_ranks(request: TrainRequest) -> TrainResult:
    path = request.work / "request.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={request.cell.layout.ranks}", "-m", "tasks.training.worker", str(path)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=500, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return TrainResult.model_validate_json((request.output / "result.json").read_text(encoding="utf-8"))
