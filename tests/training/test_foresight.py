"""What training will write is known before it does; a disk that fills all the same leaves what was there."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.disk import folder_bytes
from tasks.foundation.errors import ErrorRecord, ResourceError
from tasks.launch.layout import Layout
from tasks.models.values import BaseModel
from tasks.training import foresight, session
from tasks.training.foresight import check_folders, check_room, checkpoints_at_once, full_disk
from tasks.training.settings import TrainingSettings
from tasks.training.values import TrainRequest
from tests.training.limits import small_disk
from tests.training.ranks import trained_by_ranks
from tests.training.worlds import LORA, QUICK, in_child, request_in, toy_cell, trained

FULL = {"kind": "full", "learning_rate": 1e-3}


def settings_with(**changes: Any) -> TrainingSettings:
    return TrainingSettings.model_validate(QUICK.model_dump() | changes)


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(foresight, "free_bytes", lambda folder: free)


def needed_for(request: TrainRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """What the check says where nothing is free; -1 where it says nothing."""
    model = session.build_model(
        request.cell, session.parse_method(request.cell.method), session.read_rows(request.cell)
    )
    with_free(monkeypatch, -1)
    with pytest.raises(ResourceError) as caught:
        check_room(request, model)
    return int(caught.value.what.split("about ")[1].split(" bytes")[0].replace(",", ""))


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd"])
@pytest.mark.parametrize("method", [LORA, FULL], ids=["lora", "full"])
def test_the_bytes_that_training_writes_are_foreseen(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: dict, optim: str
) -> None:
    settings = settings_with(optim=optim, save_total_limit=2)
    request = request_in(tmp_path, toy_cell(base, tokens, method, settings))
    monkeypatch.setattr(foresight, "_BESIDES_BYTES", 0)
    foreseen = needed_for(request, monkeypatch)
    monkeypatch.undo()
    trained(request)
    weights = folder_bytes(request.output) - sum(path.stat().st_size for path in request.output.glob("*.*"))
    checkpoints = 3 * max(folder_bytes(path) for path in (request.work / "checkpoints").iterdir())
    small_files = 3 * (80 << 10)
    assert foreseen <= weights + checkpoints <= 1.25 * foreseen + small_files


def test_under_deepspeed_the_masters_and_its_own_copy_are_foreseen_too(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = {
        "zero_optimization": {"stage": 1},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
    }
    cell = toy_cell(base, tokens, FULL, settings_with(max_steps=2, save_steps=2))
    cell = cell.model_copy(update={"layout": Layout(ranks_per_node=1, engine="deepspeed", deepspeed=zero)})
    request = request_in(tmp_path, cell)
    monkeypatch.setattr(foresight, "_BESIDES_BYTES", 0)
    foreseen = needed_for(request, monkeypatch) - folder_bytes(base.path / "model.safetensors")
    monkeypatch.undo()
    trained_by_ranks(request)
    assert folder_bytes(request.work / "checkpoints") == pytest.approx(foreseen, rel=0.25)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"max_steps": 8, "save_steps": 2, "save_total_limit": 2}, 3),
        ({"max_steps": 8, "save_steps": 2, "save_total_limit": 2, "keep_best": True, "eval_steps": 2}, 4),
        ({"max_steps": 8, "save_steps": 8, "save_total_limit": 2}, 1),
        ({"max_steps": None, "save_steps": 8, "save_total_limit": 1}, 2),
    ],
    ids=["staged beside those kept", "the best beside them", "fewer are written at all", "steps are not known"],
)
def test_checkpoints_that_lie_there_at_the_same_time(
    base: BaseModel, tokens: Artifact, settings: dict[str, Any], count: int
) -> None:
    assert checkpoints_at_once(toy_cell(base, tokens, LORA, settings_with(**settings))) == count


def test_what_does_not_fit_is_refused_before_the_first_step_with_bytes_and_folders(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    with_free(monkeypatch, (1 << 20) + 1000)
    with pytest.raises(ResourceError, match=r"training will write about [\d,]+ bytes and 1,049,576 are free") as caught:
        trained(request)
    assert caught.value.where == f"{request.work} and {request.output}"
    assert not (request.work / "metrics.jsonl").exists()


def test_the_room_that_earlier_checkpoints_take_is_not_asked_for_again(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, FULL))
    anew = needed_for(request, monkeypatch)
    lying = request.work / "checkpoints" / "step-00000002"
    lying.mkdir(parents=True)
    (lying / "trainable.safetensors").write_bytes(b"\0" * 100_000)
    assert needed_for(request, monkeypatch) == anew - 100_000


def test_only_the_first_rank_asks_since_all_write_into_the_same_folders(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    model = session.build_model(
        request.cell, session.parse_method(request.cell.method), session.read_rows(request.cell)
    )
    with_free(monkeypatch, 0)
    monkeypatch.setenv("RANK", "1")
    check_room(request, model)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ResourceError):
        check_room(request, model)


def test_a_limit_on_the_size_of_files_is_foreseen(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, FULL))
    model = session.build_model(
        request.cell, session.parse_method(request.cell.method), session.read_rows(request.cell)
    )
    told = tmp_path / "told"

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            check_room(request, model)
        except ResourceError as error:
            told.write_text(str(error))

    assert in_child(limited) == 0
    assert "a checkpoint has a file of" in told.read_text() and "`ulimit -f` allows 10,000" in told.read_text()


def test_a_whole_model_that_does_not_fit_is_refused_before_any_rank_is_started(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_bytes = base.facts.parameters * 4
    with_free(monkeypatch, (1 << 20) + model_bytes - 1)
    check_folders(request_in(tmp_path / "adapter", toy_cell(base, tokens, LORA)))
    request = request_in(tmp_path / "model", toy_cell(base, tokens, FULL))
    with pytest.raises(ResourceError, match=f"about {(1 << 20) + model_bytes:,} bytes"):
        check_folders(request)


def test_a_folder_that_cannot_be_written_is_named_before_any_rank_is_started(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    with small_disk(request.work, 1 << 20, read_only=True), pytest.raises(ResourceError) as caught:
        check_folders(request)
    assert str(caught.value).startswith(f"{request.work}: cannot be written: Read-only file system. Give write")


def test_a_full_disk_costs_the_half_checkpoint_only_and_says_how_much_it_needs(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    for name, size in (("step-00000002", 5000), (".step-00000004.staging", 2000)):
        folder = request.work / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "trainable.safetensors").write_bytes(b"\0" * size)
    error = full_disk(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), request)
    assert error is not None
    assert "bytes were free after 2,000 bytes of a checkpoint that needs 5,000" in error.what
    assert error.where == str(request.work / "checkpoints")
    assert [path.name for path in (request.work / "checkpoints").iterdir()] == ["step-00000002"]


def test_other_ends_leave_a_begun_checkpoint_to_the_next_start(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    staging = request.work / "checkpoints" / ".step-00000004.staging"
    staging.mkdir(parents=True)
    assert full_disk(MemoryError(), request) is None
    assert full_disk(FileNotFoundError(errno.ENOENT, "no such file"), request) is None
    assert staging.exists()


def test_the_file_that_could_not_be_written_is_named_where_the_system_names_it(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    request = request_in(tmp_path, toy_cell(base, tokens, LORA))
    record = ErrorRecord.of(full_disk(OSError(errno.EDQUOT, "Disk quota exceeded", "metrics.jsonl"), request))
    assert (record.exit_code, record.where) == (20, "metrics.jsonl")
