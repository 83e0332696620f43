"""Rows 17, 18 and 34 of the list of faults: memory that runs out, and accelerators that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.artifacts import Artifact
from tasks.foundation.errors import BatchTooLargeError, ErrorRecord, ResourceError
from tasks.launch import Layout
from tasks.launch.launchers.local import LocalLauncher
from tasks.launch.slots import accelerators, slots_for
from tasks.models.values import BaseModel
from tasks.train import train
from tasks.training.checkpoints import Checkpoints
from tasks.training.settings import TrainingSettings
from tasks.training.trainer import CellTrainer
from tasks.training.values import Cell, TrainRequest
from tests.flows.worlds import (
    tuneline,
    write_world,
)
from tests.training.gangs import ForkLauncher, run_gang
from tests.training.limits import memory_limited, touch_memory
from tests.training.worlds import LORA, QUICK, request_in, toy_cell
from tests.workspace.worlds import arrived, place_in

LIMIT_BYTES = 1 << 30
BOMB_BYTES = 3 << 30


def settings_with(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


def devour(sequences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third step on a batch of more sequences takes more memory than there is."""
    honest: Callable[..., torch.Tensor] = CellTrainer.compute_loss

    def compute_loss(self: CellTrainer, model: nn.Module, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any):
        held = touch_memory(BOMB_BYTES) if len(inputs["input_ids"]) > sequences and self.state.global_step == 2 else b""
        return honest(self, model, inputs, *rest, **more) if held is not None else None

    monkeypatch.setattr(CellTrainer, "compute_loss", compute_loss)


def alone_in_little_memory(action: Callable[[], object]) -> None:
    """Run it in a forked process whose control group has 1 GiB; what it starts is in there too."""
    with memory_limited(LIMIT_BYTES) as join:
        pid = os.fork()
        if pid == 0:
            join(os.getpid())
            code = 1
            try:
                action()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# --- row 17: the kernel kills a rank for want of memory ---------------------------------------------------------------


def test_row_17_a_rank_that_the_kernel_kills_for_memory_ends_the_run_with_20_and_what_would_fit(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devour(2, monkeypatch)
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))

    def pipeline() -> None:
        error, seen = run_gang(request, ForkLauncher(max_restarts=3))
        assert not any("started again" in note for note in seen.notes), "no blind restart"
        (tmp_path / "told").write_text(ErrorRecord.of(error).model_dump_json())

    alone_in_little_memory(pipeline)
    error = ErrorRecord.model_validate_json((tmp_path / "told").read_text()).error()
    assert type(error) is BatchTooLargeError
    assert "was killed (out of memory) near step 3; the largest process" in error.what
    assert f"the limit is {LIMIT_BYTES:,}" in error.what
    assert "training.per_device_train_batch_size=2 training.gradient_accumulation_steps=2" in error.fix


def test_row_17_with_auto_micro_batch_what_fits_is_found_and_trained(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devour(2, monkeypatch)
    place = place_in(tmp_path / "runs")
    cell = toy_cell(base, tokens, LORA, settings_with(auto_micro_batch=True))
    alone_in_little_memory(lambda: train.fn(cell, ForkLauncher(), place))
    run = arrived(place)
    assert run.tags["tuneline.micro_batch"] == "2 x 2"
    assert "was killed (out of memory)" in run.tags["tuneline.micro_batch_reason"]
    assert [step for step, _ in run.series("train/loss")] == list(range(1, 9))


# --- row 18: the memory of a device runs out --------------------------------------------------------------------------


def test_row_18_one_rank_without_memory_tells_peak_and_override_though_its_peers_only_see_it_gone(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = CellTrainer.compute_loss

    def compute_loss(self: CellTrainer, *given: Any, **more: Any) -> torch.Tensor:
        if self.state.global_step == 2 and self.args.process_index == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return honest(self, *given, **more)

    monkeypatch.setattr(CellTrainer, "compute_loss", compute_loss)
    cell = toy_cell(base, tokens, LORA).model_copy(update={"layout": Layout(ranks_per_node=2)})
    request = request_in(tmp_path, cell)
    error, seen = run_gang(request, ForkLauncher())
    assert type(error) is BatchTooLargeError
    assert error.what.startswith("out of memory at step 3, on a batch of 4 x ")
    assert "rank 1 had" in error.what
    assert "training.per_device_train_batch_size=2" in error.fix
    assert [step for step, _ in seen.losses] == [1, 2]
    assert Checkpoints(request.work / "checkpoints", request.identity).newest() == 2


def test_row_18_a_shortage_of_the_machine_is_told_in_the_same_way(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    error, _ = run_gang(
        request_in(tmp_path, toy_cell(base, tokens, LORA)),
        ForkLauncher(environment={"TUNELINE_FAULT": "train.step:3:oom"}),
    )
    assert type(error) is BatchTooLargeError
    assert "out of memory at step 3, on a batch of 4 x" in error.what


def test_row_18_an_evaluation_without_memory_is_told_its_own_batch_and_no_micro_batch_is_tried(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    place = place_in(tmp_path / "runs")
    cell = toy_cell(base, tokens, LORA, settings_with(auto_micro_batch=True, eval_steps=2))
    with pytest.raises(ResourceError) as caught:
        train.fn(cell, ForkLauncher(environment={"TUNELINE_FAULT": "train.evaluate:1:oom"}), place)
    assert not isinstance(caught.value, BatchTooLargeError)
    assert "while evaluating" in caught.value.what
    assert caught.value.fix == "Set training.per_device_eval_batch_size=8"
    assert "tuneline.micro_batch" not in arrived(place).tags


# --- row 34: accelerators that are not there --------------------------------------------------------------------------


def cuda_cell(base: BaseModel, tokens: Artifact, ranks: int) -> Cell:
    layout = Layout(device="cuda", ranks_per_node=ranks)
    return toy_cell(base, tokens, LORA).model_copy(update={"layout": layout})


@pytest.mark.parametrize(
    ("visible", "asked"), [("", 1), ("-1", 1), ("0", 2), ("0,1,2", 4)], ids=["none", "hidden", "one of two", "3 of 4"]
)
def test_row_34_fewer_accelerators_than_ranks_are_refused_before_anything_is_computed(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ResourceError, match=f"{asked} ranks were asked for and {len(accelerators())} accelerators"):
        slots_for(LocalLauncher(accelerator="cuda", ranks_per_node=asked), accelerators(), cores=8)


@pytest.mark.parametrize(
    ("visible", "ranks"), [("", 1), ("0", 1), ("", 2)], ids=["none", "one that cannot be initialised", "two ranks"]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")
def test_row_34_a_rank_without_its_accelerator_ends_with_20_and_never_computes_elsewhere(
    base: BaseModel, tokens: Artifact, tmp_path: Path, visible: str, ranks: int
) -> None:
    request: TrainRequest = request_in(tmp_path, cuda_cell(base, tokens, ranks))
    error, seen = run_gang(request, ForkLauncher(environment={"CUDA_VISIBLE_DEVICES": visible}))
    assert type(error) is ResourceError
    assert "accelerator" in str(error)
    assert seen.lines == [] and not (request.work / "checkpoints").exists()


@pytest.mark.system
@pytest.mark.skipif(bool(accelerators()), reason="this machine has an accelerator")
def test_row_34_a_run_that_asks_for_accelerators_where_none_is_ends_with_20_before_it_computes(
    prefect_server: str, tmp_path: Path
) -> None:
    write_world(tmp_path)
    done = tuneline(tmp_path, "run", "toy.yaml", "distributed.accelerator=cuda")
    assert done.returncode == 20, done.stderr
    assert "1 ranks were asked for and 0 accelerators are here" in done.stderr
    assert not (tmp_path / "runs" / "artifacts").exists()
