"""Settings mean the same under every engine, and what is broken or best on one rank is so on all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts import Artifact
from tasks.models.values import BaseModel
from tasks.training.recording import read_metrics
from tasks.training.trainer import CellTrainer
from tasks.training.values import TrainRequest
from tests.training.layouts import cell_on, layout_of
from tests.training.ranks import run_ranks, trained_by_ranks
from tests.training.test_engines import FULL, difference, engines, failure_of, settings_with, weights
from tests.training.worlds import LORA, request_in, write_tokens


@engines("zero0", of=("ddp", "zero2", "zero3", "fsdp2"))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rate_that_moves_rounded_weights_by_less_than_a_bit_fails_no_audit(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str, precision: str
) -> None:
    settings = settings_with(max_steps=4, save_steps=4, per_device_train_batch_size=2, precision=precision)
    slow = FULL | {"learning_rate": 1e-9}
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, slow, settings))
    assert trained_by_ranks(request).steps == 4


@engines("zero2", of=("zero0", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload", "fsdp2"))
def test_clipping_decay_warm_up_and_a_partial_last_window_are_those_of_one_rank(
    base: BaseModel, tmp_path: Path, strategy: str
) -> None:
    tokens = write_tokens(tmp_path / "tokens", rows=9, evaluation=3)
    changes: dict[str, object] = {"max_steps": None, "num_train_epochs": 3.0, "gradient_accumulation_steps": 2}
    changes |= {"optim": "sgd", "max_grad_norm": 0.1, "weight_decay": 0.1, "warmup_ratio": 0.3, "eval_steps": 2}
    requests = {}
    for name, ranks in (("ddp", 1), (strategy, 2)):
        settings = settings_with(**changes, per_device_train_batch_size=4 // ranks, per_device_eval_batch_size=1)
        cell = cell_on(layout_of(name, ranks), base, tokens, FULL | {"learning_rate": 0.05}, settings)
        requests[ranks] = request_in(tmp_path / name, cell)
        trained_by_ranks(requests[ranks])
    assert difference(weights(tmp_path / "ddp"), weights(tmp_path / strategy)) < 1e-6
    for name in ("train/loss", "train/learning_rate", "train/grad_norm", "train/eval_loss"):
        one, all_of_them = (series(requests[ranks], name) for ranks in (1, 2))
        if all_of_them or (strategy, name) != ("zero0", "train/grad_norm"):  # there DeepSpeed does not tell it
            assert all_of_them == pytest.approx(one, rel=1e-5)


def series(request: TrainRequest, name: str) -> dict[int, float]:
    """Step -> value, as written."""
    lines = read_metrics(request.work / "metrics.jsonl")
    return {line.step: line.values[name] for line in lines if name in line.values}


class NotANumber(torch.autograd.Function):
    """A loss whose gradient alone is broken."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


@engines("zero2", of=("ddp", "zero0", "zero1", "zero3", "zero3-offload", "fsdp2"))
def test_a_gradient_that_is_not_finite_on_one_rank_ends_all_of_them_and_is_never_saved(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute_loss = CellTrainer.compute_loss

    def poisoned(self: CellTrainer, *given: Any, **named: Any) -> torch.Tensor:
        loss = compute_loss(self, *given, **named)
        there = (self.state.global_step, self.args.process_index) == (3, 1)
        return NotANumber.apply(loss) if there else loss

    monkeypatch.setattr(CellTrainer, "compute_loss", poisoned)
    settings = settings_with(max_steps=8, per_device_train_batch_size=2)
    request = request_in(tmp_path, cell_on(layout_of(strategy, 2), base, tokens, LORA, settings))
    assert run_ranks(request) == [30, 30]
    assert [path.name for path in (request.work / "checkpoints").glob("step-*")] == ["step-00000002"]
    # step 4 would save, and ZeRO-0 in float32 tells no norm: there the weights themselves are found out
    assert "gradient norm became" in failure_of(request).what or strategy == "zero0"


@engines("ddp", of=("zero0", "zero2", "zero3", "fsdp2"))
def test_an_earlier_best_checkpoint_is_what_all_ranks_leave_also_after_a_kill(
    base: BaseModel, tokens: Artifact, tmp_path: Path, strategy: str
) -> None:
    changes: dict[str, object] = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "eval_steps": 2}
    changes |= {"keep_best": True, "save_total_limit": 1, "per_device_train_batch_size": 2}
    cell = cell_on(layout_of(strategy, 2), base, tokens, LORA | {"learning_rate": 0.5}, settings_with(**changes))
    request, killed = (request_in(tmp_path / name, cell) for name in ("whole", "killed"))
    result = trained_by_ranks(request)
    assert result.best_step in (2, 4, 6)
    best = load_file(request.work / "checkpoints" / f"step-{result.best_step:08d}" / "trainable.safetensors")
    saved = weights(tmp_path / "whole")
    assert len(saved) == len(best)
    assert all(any(torch.equal(tensor, other) for other in best.values()) for tensor in saved.values())
    assert run_ranks(killed, TUNELINE_FAULT="train.finish:1:kill:0")[0] == -9
    assert trained_by_ranks(killed) == result


@pytest.mark.parametrize("variable", ["ACCELERATE_MIXED_PRECISION=bf16", "ACCELERATE_USE_DEEPSPEED=true"])
def test_what_accelerate_finds_in_the_environment_does_not_win_over_the_experiment(
    base: BaseModel, tokens: Artifact, tmp_path: Path, variable: str
) -> None:
    settings = settings_with(max_steps=3, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    cell = cell_on(layout_of("ddp", 2), base, tokens, LORA, settings)
    plain, disturbed = (request_in(tmp_path / name, cell) for name in ("plain", "disturbed"))
    name, _, value = variable.partition("=")
    assert trained_by_ranks(disturbed, **{name: value}) == trained_by_ranks(plain)


def test_a_key_that_zero_does_not_know_is_refused_in_a_line_before_the_model_is_loaded(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    config = {"zero_optimization": {"stage": 2, "reduce_buckt_size": 3}}
    layout = layout_of("zero2", 1)
    layout = layout.model_copy(update={"deepspeed": {**(layout.deepspeed or {}), **config}})
    request = request_in(tmp_path, cell_on(layout, base, tokens, LORA))
    assert run_ranks(request, TUNELINE_FAULT="train.load:1:kill") == [10]
    assert failure_of(request).where == "zero_optimization.reduce_buckt_size"
