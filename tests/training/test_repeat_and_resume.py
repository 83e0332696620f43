"""The same cell gives the same bytes, whatever happens on the way."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.artifacts import manifest as manifest_module
from tasks.foundation.errors import CancelledRunError, ConfigError, DivergenceError
from tasks.models.values import BaseModel
from tasks.training.checkpoints import Checkpoints
from tasks.training.recording import read_metrics
from tasks.training.stopping import StopOnSignal
from tasks.training.trainer import CellTrainer
from tasks.training.values import TrainRequest, TrainResult
from tests.training.worlds import (
    LORA,
    in_child,
    kill_this_process,
    killed_after,
    loss_series,
    request_in,
    toy_cell,
    trained,
)

METHODS = [
    LORA,
    {"kind": "full", "learning_rate": 1e-3},
    {"kind": "prefix_tuning", "num_virtual_tokens": 4, "learning_rate": 1e-2},
    {"kind": "p_tuning", "num_virtual_tokens": 4, "encoder_hidden_size": 16, "learning_rate": 1e-2},
    {"kind": "distillation", "student": {"kind": "lora", "r": 4, "lora_dropout": 0.1}, "learning_rate": 1e-2},
    {"kind": "progressive_shrinking", "r": 4, "depths": [2, 1], "lora_dropout": 0.1, "learning_rate": 1e-2},
    {"kind": "pruning", "r": 4, "learning_rate": 1e-2},
    {"kind": "adalora", "init_r": 6, "target_r": 2, "learning_rate": 1e-2},
    LORA | {"init_lora_weights": "corda", "init_rows": 9},
    LORA | {"init_lora_weights": "eva"},
]


@pytest.fixture(scope="module")
def uninterrupted(
    base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainRequest, TrainResult]:
    """LoRA with dropout, 8 steps, a checkpoint every 2."""
    request = request_in(tmp_path_factory.mktemp("whole"), toy_cell(base, tokens, LORA))
    return request, trained(request)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["kind"])
def test_the_same_cell_twice_gives_the_same_bytes(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict
) -> None:
    cell = toy_cell(base, tokens, method)
    first, second = (trained(request_in(tmp_path / name, cell)) for name in ("a", "b"))
    assert first == second
    assert (
        first.weights_digest != trained(request_in(tmp_path / "c", cell.model_copy(update={"seed": 1}))).weights_digest
    )


@pytest.mark.parametrize("killed_at", range(1, 9))
def test_killed_at_any_step_and_started_again_it_ends_with_the_same_bytes(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, killed_at: int
) -> None:
    whole, result = uninterrupted
    request = request_in(tmp_path, whole.cell)
    killed_after(killed_at, request)
    assert trained(request) == result
    assert loss_series(request) == loss_series(whole)


@pytest.mark.parametrize("sync", range(1, 15))
def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, sync: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = uninterrupted
    request = request_in(tmp_path, whole.cell)
    calls = 0

    def killing(path: Path) -> None:
        nonlocal calls
        calls += "checkpoints" in path.as_posix()
        if calls == sync:
            kill_this_process()

    with monkeypatch.context() as patch:
        patch.setattr(manifest_module, "sync", killing)
        assert in_child(partial(trained, request)) == -9
    assert trained(request).weights_digest == result.weights_digest


@pytest.mark.parametrize("damage", ["missing", "cut short", "broken in its middle", "another number"])
def test_metrics_that_a_power_cut_or_a_bad_disk_took_come_back_from_the_checkpoint(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, damage: str
) -> None:
    whole, _ = uninterrupted
    request = request_in(tmp_path, whole.cell)
    shutil.copytree(whole.work, request.work, dirs_exist_ok=True)
    shutil.rmtree(request.work / "checkpoints" / "step-00000008")
    file = request.work / "metrics.jsonl"
    written = file.read_bytes()
    value = str(loss_series(whole)[2][1]).encode()
    lost = {"cut short": written[:400], "broken in its middle": written.replace(b'"step":2', b'"stfp":2')}
    lost["another number"] = written.replace(value, b"9" + value)
    file.unlink()
    if damage != "missing":
        assert lost[damage] != written
        file.write_bytes(lost[damage])
    trained(request)
    assert loss_series(request) == loss_series(whole)
    said = [(line.step, sorted(line.values.keys() - {"perf/step_seconds"})) for line in read_metrics(file)]
    assert said == [
        (line.step, sorted(line.values.keys() - {"perf/step_seconds"}))
        for line in read_metrics(whole.work / "metrics.jsonl")
    ]


def test_sigterm_leaves_a_checkpoint_and_the_next_start_ends_with_the_same_bytes(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, result = uninterrupted
    request = request_in(tmp_path, whole.cell)

    def asking(self: StopOnSignal, device: object) -> bool:
        return not request.work.joinpath("asked").exists() and request.work.joinpath("progress.json").exists()

    monkeypatch.setattr(StopOnSignal, "_agreed", asking)
    with pytest.raises(CancelledRunError, match="stopped at step 1 with a checkpoint"):
        trained(request)
    assert Checkpoints(request.work / "checkpoints", request.identity).newest() == 1
    request.work.joinpath("asked").touch()
    assert trained(request).weights_digest == result.weights_digest
    assert loss_series(request) == loss_series(whole)


def test_changed_settings_are_refused_with_a_diff(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, base: BaseModel, tokens: Artifact
) -> None:
    whole, _ = uninterrupted
    other = request_in(tmp_path, toy_cell(base, tokens, LORA | {"learning_rate": 2e-2}))
    shutil.copytree(whole.work, other.work, dirs_exist_ok=True)
    with pytest.raises(ConfigError, match=r"method\.learning_rate 0\.01 -> 0\.02") as refused:
        trained(other)
    assert refused.value.exit_code == 10


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty", "of another step"])
@pytest.mark.parametrize(
    "name", ["trainable.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
)
def test_a_damaged_checkpoint_is_never_used(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path, name: str, damage: str
) -> None:
    whole, _ = uninterrupted
    shutil.copytree(whole.work / "checkpoints", tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints", whole.identity)
    last, before = sorted(checkpoints.steps())[-1], sorted(checkpoints.steps())[-2]
    victim = checkpoints.path(last) / name
    content = victim.read_bytes()
    if damage == "missing":
        victim.unlink()
    else:
        flipped = bytes([*content[:-1], content[-1] ^ 1])
        other = (checkpoints.path(before) / name).read_bytes()
        victim.write_bytes(
            {"truncated": content[:-7], "flipped": flipped, "empty": b"", "of another step": other}[damage]
        )
        if victim.read_bytes() == content:
            pytest.skip("this file is the same at both steps")
    assert checkpoints.newest() == before


def test_a_whole_checkpoint_under_the_name_of_another_step_is_never_used(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path
) -> None:
    whole, _ = uninterrupted
    shutil.copytree(whole.work / "checkpoints", tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints", whole.identity)
    last = checkpoints.steps()[-1]
    shutil.copytree(checkpoints.path(last), checkpoints.path(last + 100))
    assert checkpoints.newest() == last


def test_a_loss_that_is_not_finite_stops_within_one_step_and_leaves_no_such_checkpoint(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    compute_loss = CellTrainer.compute_loss

    def poisoned(self: CellTrainer, *args, **kwargs):
        loss = compute_loss(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 4 else loss

    monkeypatch.setattr(CellTrainer, "compute_loss", poisoned)
    with pytest.raises(DivergenceError, match="loss became nan at step 5"):
        trained(request)
    assert Checkpoints(request.work / "checkpoints", request.identity).steps() == [2, 4]
    assert [step for step, _ in loss_series(request)] == [1, 2, 3, 4]


def test_an_infinite_gradient_stops_before_a_weight_is_touched(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    clip = CellTrainer._clip_grad_norm

    def poisoned(self: CellTrainer, model):
        if self.state.global_step == 2:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(float("inf"))
        return clip(self, model)

    monkeypatch.setattr(CellTrainer, "_clip_grad_norm", poisoned)
    with pytest.raises(DivergenceError, match="gradient norm became"):
        trained(request)


def test_a_run_killed_after_its_last_step_only_saves(
    uninterrupted: tuple[TrainRequest, TrainResult], tmp_path: Path
) -> None:
    whole, result = uninterrupted
    request = request_in(tmp_path, whole.cell)
    shutil.copytree(whole.work, request.work, dirs_exist_ok=True)
    assert trained(request).weights_digest == result.weights_digest
    assert loss_series(request) == loss_series(whole)
