"""Rows of faults.md that a gang of ranks meets by itself: 6, 7, 8, 13 to 16, 23, 32, 33, 43 to 45."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from configs.engines import deepspeed_of
from tasks.artifacts import Artifact
from tasks.foundation import faults
from tasks.foundation.errors import CancelledRunError, ConfigError, DivergenceError, HangError, RankError
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


def test_row_06_killed_while_a_checkpoint_is_written_the_one_before_is_used(alone: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, alone[0].cell)
    assert run_ranks(request, TUNELINE_FAULT="checkpoint.rename:2:kill") == [-9]
    for site in WRITING:  # each start goes on from the last one's fall
        name, _, passage = site.partition(":")
        assert run_ranks(request, TUNELINE_FAULT=f"checkpoint.{name}:{passage or 1}:kill") == [-9], site
        assert committed(request) == [2], site
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
    assert "after step 5 in faults.py" in seen.notes[0], "it hangs in the sixth"
    log = (request.work / "log.txt").read_text(encoding="utf-8")
    assert "--- stacks of rank 0" in log
    assert "--- stacks of rank 1" in log
    assert TrainResult.model_validate_json((request.output / "result.json").read_bytes()) == pair[1]
    assert seen.losses == loss_series(request) == loss_series(pair[0])


@pytest.mark.system
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


@pytest.mark.parametrize(
    "site",
    [
        pytest.param("train.batch:5", marks=pytest.mark.system),
        pytest.param("train.evaluate:1", marks=pytest.mark.system),
        pytest.param("checkpoint.optimizer:2", marks=pytest.mark.system),
        pytest.param("train.save:1", marks=pytest.mark.system),
    ],
)
def test_row_16_a_hang_is_found_in_every_phase(pair: Whole, tmp_path: Path, site: str) -> None:
    request = request_in(tmp_path, pair[0].cell)
    rank = 0 if site.startswith("train.save") else 1
    hanging = {"TUNELINE_FAULT": f"{site}:hang:{rank}"}
    error, _ = run_gang(request, ForkLauncher(environment=hanging, stall_seconds=SHORT, max_restarts=0))
    assert isinstance(error, HangError)
    assert f"rank {rank}" in error.what
    as_undisturbed(request, pair)


DAMAGES = ("missing", "truncated", "flipped first", "flipped amid", "flipped last", "empty", "of another step")


def damaged(content: bytes, damage: str) -> bytes:
    """What is left of a file, bit for bit."""
    if damage == "empty":
        return b""
    if damage == "truncated":
        return content[: -max(len(content) // 3, 1)]
    place = {"flipped first": 0, "flipped amid": len(content) // 2, "flipped last": len(content) - 1}[damage]
    return bytes([*content[:place], content[place] ^ 1, *content[place + 1 :]])


@pytest.fixture(scope="module")
def zero2(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Two ranks under DeepSpeed: each keeps a part of the optimizer's state in a file of its own."""
    cell = cell_of(base, tokens, 2, max_steps=4)
    layout = Layout(
        ranks_per_node=2, engine="deepspeed", deepspeed=deepspeed_of(ForkLauncher(strategy="zero2"), cell.training)
    )
    request = request_in(tmp_path_factory.mktemp("zero2"), cell.model_copy(update={"layout": layout}))
    return request, trained_by_ranks(request)


@pytest.mark.parametrize("engine", ["pair", "zero2"])
def test_row_23_every_file_of_a_checkpoint_however_damaged_is_never_used(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = request.getfixturevalue(engine)
    folder = tmp_path / "checkpoints"
    shutil.copytree(whole.work / "checkpoints", folder)
    checkpoints = Checkpoints(folder, whole.identity)
    before, last = checkpoints.steps()[-2:]
    names = [path.relative_to(checkpoints.path(last)) for path in checkpoints.path(last).rglob("*") if path.is_file()]
    assert len([name for name in names if "rng_state" in name.name]) == 2
    assert any("optim" in name.name for name in names)
    for name in sorted(names):
        victim = checkpoints.path(last) / name
        content = victim.read_bytes()
        for damage in DAMAGES:
            other = (checkpoints.path(before) / name).read_bytes() if damage == "of another step" else b""
            if damage == "missing":
                victim.unlink()
            elif damage != "of another step":
                victim.write_bytes(damaged(content, damage))
            elif other != content:
                victim.write_bytes(other)
            else:
                continue
            assert checkpoints.newest() == before, f"{name} {damage}"
            victim.write_bytes(content)
        assert checkpoints.newest() == last
    assert f"checkpoint of step {last} is damaged" in caplog.text


def test_row_23_a_damaged_checkpoint_is_fallen_back_from_and_never_pushes_a_good_one_out(
    pair: Whole, tmp_path: Path
) -> None:
    request = request_in(tmp_path, pair[0].cell)
    shutil.copytree(pair[0].work, request.work, dirs_exist_ok=True)
    for step in (6, 8):
        victim = request.work / "checkpoints" / f"step-{step:08d}" / "rng_state_1.pth"
        victim.write_bytes(damaged(victim.read_bytes(), "flipped amid"))
    assert run_ranks(request, TUNELINE_FAULT="checkpoint.rename:1:kill:0")[0] == -9
    assert committed(request) == [4]
    as_undisturbed(request, pair)


@pytest.mark.parametrize("rank", [0, 2])
def test_row_32_a_loss_that_is_not_a_number_on_one_rank_ends_all_within_a_step(
    base: BaseModel, tokens: Artifact, tmp_path: Path, rank: int
) -> None:
    request = request_in(tmp_path, cell_of(base, tokens, 3))
    error, _ = run_gang(request, ForkLauncher(environment={"TUNELINE_FAULT": f"train.step:5:nan:{rank}"}))
    assert isinstance(error, DivergenceError)
    assert "became nan at step 5" in error.what
    assert committed(request) == [2, 4]
    assert [step for step, _ in loss_series(request)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ({"kind": "full", "learning_rate": 3.0}, "above 2 times its best"),
        pytest.param(LORA | {"learning_rate": 1e3}, "without any gradient", marks=pytest.mark.system),
    ],
    ids=["a loss that rises and stays up", "a model that is saturated"],
)
def test_row_33_training_that_fails_with_finite_numbers_ends_with_30_at_the_same_step_also_when_resumed(
    base: BaseModel, tokens: Artifact, tmp_path: Path, method: dict, wrong: str
) -> None:
    changes = {"max_steps": 60, "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "save_steps": 4}
    settings = settings_with(**changes, divergence_patience=6, divergence_factor=2.0)
    cell = toy_cell(base, tokens, method, settings)
    whole = request_in(tmp_path / "whole", cell)
    error, _ = run_gang(whole, ForkLauncher())
    assert isinstance(error, DivergenceError)
    assert f"for 6 logged ones in a row {wrong}" in error.what
    request = request_in(tmp_path / "killed", cell)
    assert run_ranks(request, TUNELINE_FAULT="train.step:6:kill") == [-9]
    again, _ = run_gang(request, ForkLauncher())
    assert again
    assert again.what == error.what
    assert loss_series(request) == loss_series(whole)


def test_row_43_files_that_are_older_than_they_should_be_change_nothing(pair: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, pair[0].cell)
    assert run_ranks(request, TUNELINE_FAULT="train.step:7:kill:0")[0] == -9
    for age, step in enumerate(committed(request)):
        for path in [request.work / "checkpoints" / f"step-{step:08d}", request.work / "metrics.jsonl"]:
            os.utime(path, (10**9 - age * 10**6,) * 2)
    assert Checkpoints(request.work / "checkpoints", request.identity).newest() == 6
    as_undisturbed(request, pair)


def test_row_44_each_changed_fact_is_refused_with_a_diff(alone: Whole) -> None:
    identity = alone[0].identity
    for name in sorted(identity):
        changed = Checkpoints(alone[0].work / "checkpoints", identity | {name: '"other"'})
        with pytest.raises(ConfigError, match=f'{re.escape(name)} .* -> "other"') as refused:
            changed.newest()
        assert refused.value.exit_code == 10


@pytest.mark.parametrize("library", ["torch", "peft"])
def test_row_45_a_checkpoint_of_another_library_version_is_refused_by_all_ranks(
    pair: Whole, tmp_path: Path, library: str
) -> None:
    request = request_in(tmp_path, pair[0].cell)
    shutil.copytree(pair[0].work / "checkpoints", request.work / "checkpoints")
    upgraded = request.model_copy(update={"identity": request.identity | {f"library.{library}": '"99.0"'}})
    assert run_ranks(upgraded) == [10, 10]
    assert f"library.{library}" in (request.work / "failure.json").read_text(encoding="utf-8")


def test_a_gang_whose_rank_died_starts_again_by_itself_and_tells_each_step_once(pair: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, pair[0].cell)
    once = {"TUNELINE_FAULT": "train.step:6:kill:1", "TUNELINE_FAULT_ONCE": str(tmp_path / "once")}
    error, seen = run_gang(request, ForkLauncher(environment=once, stall_seconds=PATIENT))
    assert error is None
    assert len(seen.notes) == 1
    assert seen.losses == loss_series(pair[0])
    assert TrainResult.model_validate_json((request.output / "result.json").read_bytes()) == pair[1]


def test_a_gang_that_dies_again_and_again_ends_with_32(pair: Whole, tmp_path: Path) -> None:
    request = request_in(tmp_path, pair[0].cell)
    always = {"TUNELINE_FAULT": "train.batch:1:kill:1"}
    error, seen = run_gang(request, ForkLauncher(environment=always, stall_seconds=PATIENT, max_restarts=1))
    assert isinstance(error, RankError)
    assert len(set(seen.notes)) == 1
    assert error.exit_code == 32
