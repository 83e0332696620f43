"""Rows 19 to 21 of the list of faults: a disk that fills, or refuses. The file systems are real and small."""

from __future__ import annotations

import errno
import logging
import os
import resource
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

from tasks.artifacts import Artifact, verify
from tasks.data.hub import read_hub
from tasks.data.sources import Source
from tasks.foundation.errors import ResourceError
from tasks.models import ModelSettings, fetch
from tasks.models.values import BaseModel
from tasks.tracking.journal import read_entries
from tasks.train import train
from tasks.training import recorder
from tasks.training.checkpoints import Checkpoints
from tasks.training.recording import MetricsFile
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tests.flows.worlds import (
    client,
    processes_in,
    runs_of,
    started,
    tuneline,
    wait_for_step,
    weights_of,
    write_experiment,
    write_world,
)
from tests.launch.worlds import wait_until
from tests.training.gangs import ForkLauncher, run_gang
from tests.training.limits import fill, small_disk
from tests.training.ranks import run_ranks
from tests.training.worlds import LORA, QUICK, loss_series, request_in, toy_cell, trained
from tests.workspace.worlds import arrived, place_in

FULL = {"kind": "full", "learning_rate": 1e-3}
DISK_BYTES = 16 << 20


def settings_with(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


# --- row 19: the disk fills while a checkpoint is written -------------------------------------------------------------


def filled_before_checkpoint(step: int, leave_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full but for a rest when the checkpoint of a step is begun."""
    honest = Checkpoints.staging

    def staging(self: Checkpoints, at: int) -> Path:
        if at == step:
            fill(self.folder, leave_bytes)
        return honest(self, at)

    monkeypatch.setattr(Checkpoints, "staging", staging)


@pytest.fixture(scope="module")
def cell(base: BaseModel, tokens: Artifact) -> Cell:
    return toy_cell(base, tokens, FULL)


@pytest.fixture(scope="module")
def undisturbed(cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of what comes out where there is room."""
    return trained(request_in(tmp_path_factory.mktemp("undisturbed"), cell)).weights_digest


@pytest.mark.parametrize("leave_bytes", [0, 40 << 10, 800 << 10], ids=lambda size: f"{size >> 10} KiB left")
def test_row_19_a_checkpoint_that_finds_no_room_costs_itself_only_and_later_the_same_bytes_come_out(
    cell: Cell, undisturbed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leave_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        request = request_in(disk, cell)
        with monkeypatch.context() as patch:
            filled_before_checkpoint(6, leave_bytes, patch)
            error, _ = run_gang(request, ForkLauncher())
        assert type(error) is ResourceError
        assert str(request.work) in error.where
        if leave_bytes:
            assert "bytes of a checkpoint that needs 1,0" in error.what, error.what
        kept = [path.name for path in sorted((request.work / "checkpoints").iterdir()) if path.name != "filler"]
        assert kept == ["step-00000002", "step-00000004"]
        for name in kept:
            verify(request.work / "checkpoints" / name)
        (request.work / "checkpoints" / "filler").unlink()
        again, _ = run_gang(request, ForkLauncher())
        assert again is None
        result = (request.output / "result.json").read_text()
        assert f'"weights_digest": "{undisturbed}"' in result
        assert [step for step, _ in loss_series(request)] == list(range(1, 9))


@pytest.mark.parametrize("site", ["checkpoint.stage", "checkpoint.weights", "checkpoint.optimizer", "checkpoint.rng"])
def test_row_19_wherever_a_rank_finds_the_disk_full_no_half_checkpoint_is_left(
    base: BaseModel, tokens: Artifact, tmp_path: Path, site: str
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    assert run_ranks(request, TUNELINE_FAULT=f"{site}:2:enospc") == [20]
    assert [path.name for path in (request.work / "checkpoints").iterdir()] == ["step-00000002"]


def test_row_19_a_limit_on_the_size_of_files_that_comes_while_training_is_a_full_disk(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Checkpoints.staging

    def staging(self: Checkpoints, at: int) -> Path:
        if at == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        return honest(self, at)

    monkeypatch.setattr(Checkpoints, "staging", staging)
    request = request_in(tmp_path, toy_cell(base, tokens, FULL))
    error, _ = run_gang(request, ForkLauncher())
    assert type(error) is ResourceError and "the disk is full" in error.what
    assert Checkpoints(request.work / "checkpoints", request.identity).newest() == 2


# --- row 20: the disk fills under logs, metrics and the spool ---------------------------------------------------------


def test_row_20_without_room_for_metrics_training_ends_with_20_and_goes_on_to_the_same_series(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_with(max_steps=60, save_steps=30)
    whole = request_in(tmp_path / "whole", toy_cell(base, tokens, LORA, settings))
    digest = trained(whole).weights_digest
    honest = MetricsFile.append

    def append(self: MetricsFile, line: Any) -> None:
        if line.step == 32:
            fill(self.path.parent, 0)
        honest(self, line)

    with small_disk(tmp_path / "disk", DISK_BYTES) as disk:
        request = request_in(disk, toy_cell(base, tokens, LORA, settings))
        with monkeypatch.context() as patch:
            patch.setattr(MetricsFile, "append", append)
            error, seen = run_gang(request, ForkLauncher())
        assert type(error) is ResourceError, error
        assert "disk" in error.what
        told = [step for step, _ in seen.losses]
        assert told == list(range(1, len(told) + 1)) and 32 <= len(told) < 60
        (request.work / "filler").unlink()
        again, _ = run_gang(request, ForkLauncher())
        assert again is None
        assert loss_series(request) == loss_series(whole)
        assert f'"weights_digest": "{digest}"' in (request.output / "result.json").read_text()


def test_row_20_progress_that_cannot_be_shown_is_said_once_and_nothing_else_changes(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    (request.work / "progress.staged").mkdir()
    told = logging.FileHandler(tmp_path / "told")
    logging.getLogger(recorder.__name__).addHandler(told)
    codes = run_ranks(request)
    logging.getLogger(recorder.__name__).removeHandler(told)
    assert codes == [0]
    assert (tmp_path / "told").read_text().count("the progress cannot be shown") == 1
    assert len(loss_series(request)) == 8


def test_row_20_a_full_spool_leaves_the_journal_whole_and_ends_the_step_with_20(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "spool", 1 << 20) as spool:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "spool").symlink_to(spool)
        place = place_in(tmp_path / "runs")
        filler = fill(spool, 0)
        cell = toy_cell(base, tokens, LORA, settings_with(max_steps=60, save_steps=30))
        with pytest.raises(ResourceError, match="cannot record the run: No space left on device"):
            train.fn(cell, ForkLauncher(), place)
        assert all(entry.event for entry in read_entries(place.run.journal, 0, 1 << 20))
        filler.unlink()
        trained_now = train.fn(cell, ForkLauncher(), place)
        assert [step for step, _ in arrived(place).series("train/loss")] == list(range(1, 61))
    assert trained_now.result.steps == 60


def test_row_20_a_full_cache_of_the_model_hub_is_no_hub_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, **asked: Any) -> str:
        (Path(constants.HF_HUB_CACHE) / "model.safetensors").write_bytes(b"w" * 4096)
        raise AssertionError("there was room")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *asked, **more: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with small_disk(tmp_path / "cache", 1 << 20) as cache:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        fill(cache, 0)
        with pytest.raises(ResourceError, match="the disk is full") as caught:
            fetch(ModelSettings(name_or_path="someone/model", revision="0" * 40))
    assert caught.value.where == str(tmp_path / "cache") and "HF_HOME" in caught.value.fix


def test_row_20_a_full_cache_of_data_sets_is_no_fault_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, **asked: Any) -> object:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred while generating") from error

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = Source(
        kind="hub",
        name="someone/rows",
        revision="0" * 40,
        split="train",
        weight=None,
        format=None,
        columns={},
    )
    with pytest.raises(ResourceError, match="the disk is full: the cache cannot take someone/rows@000000000000"):
        list(read_hub(source))


@pytest.mark.system
@pytest.mark.timeout(1500)
def test_rows_19_and_20_a_disk_that_fills_under_a_whole_run_ends_it_with_20_and_with_room_it_goes_on(
    prefect_server: str, tmp_path: Path
) -> None:
    experiment = {
        "training": {"max_steps": 120, "per_device_train_batch_size": 4, "save_steps": 5},
        "methods": [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}],
    }
    for name in ("whole", "disturbed"):
        write_world(tmp_path / name)
        write_experiment(tmp_path / name, **experiment)
    assert tuneline(tmp_path / "whole", "run", "toy.yaml").returncode == 0
    folder = tmp_path / "disturbed"
    with small_disk(folder / "runs", 128 << 20) as runs:
        with started(folder, "run", "toy.yaml", "tracking.flush_seconds=5") as process:  # nothing can be sent
            wait_for_step(folder, 12, process)
            filler = fill(runs, 0)
            _, errors = process.communicate()
            assert process.returncode == 20, errors
        wait_until(lambda: processes_in(folder) == [])
        assert "Traceback" not in errors and str(runs) in errors, "it is said which disk is full"
        filler.unlink()
        again = tuneline(folder, "run", "toy.yaml")
        assert again.returncode == 0, again.stderr
        assert weights_of(folder) == weights_of(tmp_path / "whole")
        assert {run.info.status for run in runs_of(client(folder))} == {"FAILED", "FINISHED"}


# --- row 21: folders that cannot be written ---------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["work", "output"])
def test_row_21_a_folder_that_is_read_only_is_named_before_any_rank_starts(
    base: BaseModel, tokens: Artifact, tmp_path: Path, folder: str
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    with small_disk(tmp_path / folder, 1 << 20, read_only=True):
        error, _ = run_gang(request, ForkLauncher())
    assert type(error) is ResourceError
    assert error.where == str(tmp_path / folder)
    assert "Read-only file system" in error.what
    assert not list(request.work.glob("log*.txt"))


@pytest.mark.parametrize("name", ["", "work", "spool"])
def test_row_21_any_folder_that_a_run_writes_into_is_looked_at_before_anything_is_computed(
    tmp_path: Path, name: str
) -> None:
    write_world(tmp_path)
    folder = tmp_path / "runs" / name
    with small_disk(folder, 1 << 20, read_only=True):
        done = tuneline(tmp_path, "run", "toy.yaml")
    assert done.returncode == 20
    assert done.stderr.startswith(f"tuneline: runs folder: {folder.relative_to(tmp_path)}: Read-only file system")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("mlflow.db"))
