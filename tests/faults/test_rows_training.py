"""Rows of faults.md that a gang of ranks meets by itself: 6, 7, 8, 13 to 16, 23, 32, 33, 43 to 45."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation import faults
from tasks.foundation.errors import CancelledRunError, HangError
from tasks.launch import Layout, StallSettings
from tasks.models.values import BaseModel
from tasks.training.checkpoints import Checkpoints
from tasks.training.recording import read_progress
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest, TrainResult
from tests.launch.worlds import wait_until
from tests.training.gangs import PATIENT, ForkLauncher, run_gang
from tests.training.ranks import run_ranks, start_ranks, trained_by_ranks
from tests.training.worlds import LORA, QUICK, loss_series, request_in, toy_cell

Whole = tuple[TrainRequest, TrainResult]
"""An undisturbed run."""
SHORT = StallSettings(loading=300, training=4, evaluating=4, saving=4, finishing=4)


def settings_with(**changes: object) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


def cell_of(base: BaseModel, tokens: Artifact, ranks: int = 1, **changes: object) -> Cell:
    cell = toy_cell(base, tokens, LORA, settings_with(**changes))
    return cell.model_copy(update={"layout": Layout(ranks_per_node=ranks)})


def committed(request: TrainRequest) -> list[int]:
    """Steps whose checkpoints verify, every byte of them."""
    checkpoints = Checkpoints(request.work / "checkpoints", request.identity)
    return [step for step in checkpoints.steps() if checkpoints.intact(step)]


@pytest.fixture(scope="module")
def alone(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Undisturbed: one rank, 8 steps, a checkpoint every 2."""
    request = request_in(tmp_path_factory.mktemp("alone"), cell_of(base, tokens))
    return request, trained_by_ranks(request)


@pytest.fixture(scope="module")
def pair(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The same on two ranks, with evaluations every 4 steps, a loss logged every 2 and three checkpoints kept."""
    cell = cell_of(base, tokens, 2, eval_steps=4, logging_steps=2, save_total_limit=3)
    request = request_in(tmp_path_factory.mktemp("pair"), cell)
    return request, trained_by_ranks(request)


def as_undisturbed(request: TrainRequest, whole: Whole) -> None:
    """Started again it ends with the bytes and the series of the undisturbed run."""
    assert trained_by_ranks(request) == whole[1]
    assert loss_series(request) == loss_series(whole[0])


WRITING = ["stage", "weights", "optimizer", "rng", *(f"file:{n}" for n in range(1, 8)), "manifest", "rename"]


@pytest.mark.parametrize("site", WRITING)
def test_row_06_killed_while_a_checkpoint_is_written_the_one_before_is_used(
    alone: Whole, tmp_path: Path, site: str
) -> None:
    request = request_in(tmp_path, alone[0].cell)
    name, _, number = site.partition(":")
    files = len(list((alone[0].work / "checkpoints" / "step-00000008").iterdir())) - 1
    passage = files + int(number) if number else 2  # in the second checkpoint
    assert run_ranks(request, TUNELINE_FAULT=f"checkpoint.{name}:{passage}:kill") == [-9]
    assert committed(request) == [2]
    as_undisturbed(request, alone)


def test_row_07_killed_between_rename_and_retention_both_checkpoints_are_good(alone: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, alone[0].cell)
    for site, there in (("renamed:2", [2, 4]), ("retain:2", [2, 4, 6, 8])):
        assert run_ranks(request, TUNELINE_FAULT=f"checkpoint.{site}:kill") == [-9]
        assert committed(request) == there
    as_undisturbed(request, alone)


def test_row_08_a_checkpoint_whose_deletion_was_broken_off_does_not_count_and_goes_later(
    base: BaseModel, tokens: Artifact, alone: Whole, tmp_path: Path
) -> None:
    cell = cell_of(base, tokens, save_total_limit=1)
    request = request_in(tmp_path, cell)
    assert run_ranks(request, TUNELINE_FAULT="checkpoint.delete:1:kill") == [-9]
    assert committed(request) == [4]
    assert (request.work / "checkpoints" / "step-00000002").is_dir()
    as_undisturbed(request, alone)
    assert sorted(path.name for path in (request.work / "checkpoints").iterdir()) == ["step-00000008"]


LONG = {"max_steps": 100_000, "save_steps": 100_000, "logging_steps": 5, "lr_scheduler_type": "constant"}


def terminated_at(request: TrainRequest, step: int, rank: int, **environment: str) -> list[int]:
    """Exit codes after SIGTERM to one rank, some time after a step."""
    ranks = start_ranks(request, **environment)
    progress = request.work / "progress.json"
    wait_until(lambda: (seen := read_progress(progress)) is not None and seen.step >= step)
    os.kill(int(ranks[rank].pid or 0), signal.SIGTERM)
    for process in ranks:
        process.join()
    return [int(process.exitcode or 0) for process in ranks]


def test_row_13_sigterm_to_one_rank_stops_all_at_one_step_with_a_checkpoint_and_143(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path / "stopped", cell_of(base, tokens, 3, **LONG))
    assert terminated_at(request, 3, rank=2) == [143, 143, 143]
    (step,) = committed(request)
    ends = {"max_steps": step + 7, "lr_scheduler_type": "constant", "logging_steps": 5, "save_steps": 100_000}
    cell = cell_of(base, tokens, 3, **ends)
    resumed = request_in(tmp_path / "resumed", cell).model_copy(update={"identity": request.identity})
    shutil.copytree(request.work, resumed.work, dirs_exist_ok=True)
    whole = request_in(tmp_path / "whole", cell)
    as_undisturbed(resumed, (whole, trained_by_ranks(whole)))


@pytest.mark.parametrize(
    ("fault", "codes", "there"),
    [
        ("train.load:1:term:1", {143}, []),
        ("train.batch:1:term:1", {143}, [1]),
        ("train.evaluate:1:term:1", {143}, [4, 5]),
        ("train.finish:1:term:1", {0}, [4, 6, 8]),
    ],
    ids=["while loading", "before the first step", "while evaluating", "while finishing"],
)
def test_row_13_wherever_sigterm_comes_it_ends_in_order(
    pair: Whole, tmp_path: Path, fault: str, codes: set[int], there: list[int]
) -> None:
    request = request_in(tmp_path, pair[0].cell)
    error, _ = run_gang(request, ForkLauncher(environment={"TUNELINE_FAULT": fault}, stall_seconds=PATIENT))
    assert {error.exit_code if error else 0} == codes
    assert isinstance(error, CancelledRunError) or not error
    assert [step for step in committed(request) if step != 2] == there
    as_undisturbed(request, pair)


def test_row_14_killed_while_the_checkpoint_of_a_sigterm_is_written_the_older_one_stays(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, cell_of(base, tokens, **LONG))
    assert terminated_at(request, 2, rank=0) == [143]
    (step,) = committed(request)
    killed = terminated_at(request, step + 2, rank=0, TUNELINE_FAULT="checkpoint.manifest:1:kill")
    assert killed == [-9]
    assert committed(request) == [step]


def test_row_14_a_second_sigterm_while_saving_changes_nothing(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, cell_of(base, tokens, **LONG))
    assert terminated_at(request, 2, rank=0, TUNELINE_FAULT="checkpoint.weights:1:term") == [143]
    assert len(committed(request)) == 1


def test_row_15_a_rank_that_hangs_ends_the_gang_with_31_and_it_goes_on_by_itself(pair: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, pair[0].cell)
    once = {"TUNELINE_FAULT": "train.step:6:hang:1", "TUNELINE_FAULT_ONCE": str(tmp_path / "once")}
    error, seen = run_gang(request, ForkLauncher(environment=once, stall_seconds=SHORT))
    assert error is None
    assert [note.partition(":")[0] for note in seen.notes] == ["started again"]
    assert "rank 1" in seen.notes[0]
    assert "in faults.py" in seen.notes[0]
    log = (request.work / "log.txt").read_text(encoding="utf-8")
    assert "--- stacks of rank 0" in log
    assert "--- stacks of rank 1" in log
    assert TrainResult.model_validate_json((request.output / "result.json").read_bytes()) == pair[1]
    assert seen.losses == loss_series(request) == loss_series(pair[0])


def test_row_15_a_rank_that_is_stopped_is_found_and_named(
    pair: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, pair[0].cell)
    monkeypatch.setitem(faults.ACTIONS, "hang", stop_this_process)
    stopping = {"TUNELINE_FAULT": "train.step:6:hang:1"}
    error, _ = run_gang(request, ForkLauncher(environment=stopping, stall_seconds=SHORT, max_restarts=0))
    assert isinstance(error, HangError)
    assert "rank 1" in error.what
    assert "which does not answer" in error.what
    assert "go on from step 4" in error.fix


def stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("site", ["train.batch:5", "train.evaluate:1", "checkpoint.optimizer:2", "train.save:1"])
def test_row_16_a_hang_is_found_in_every_phase(pair: Whole, tmp_path: Path, site: str) -> None:
    request = request_in(tmp_path, pair[0].cell)
    rank = 0 if site.startswith("train.save") else 1
    hanging = {"TUNELINE_FAULT": f"{site}:hang:{rank}"}
    error, _ = run_gang(request, ForkLauncher(environment=hanging, stall_seconds=SHORT, max_restarts=0))
    assert isinstance(error, HangError)
    assert f"rank {rank}" in error.what
    as_undisturbed(request, pair)
