"""Out of memory: the same global batch in smaller pieces, found once and remembered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tasks.artifacts import Artifact
from tasks.foundation.errors import BatchTooLargeError, ResourceError
from tasks.launch import Layout
from tasks.launch.slots import Slots, sharing
from tasks.models.values import BaseModel
from tasks.train import train
from tasks.training.memory import MicroBatch
from tasks.training.retry import FILE, micro_batch_text, train_fitting, with_micro_batch
from tasks.training.settings import TrainingSettings
from tasks.training.trainer import CellTrainer
from tasks.training.values import Cell
from tests.training.gangs import ForkLauncher
from tests.training.ranks import trained_by_ranks
from tests.training.worlds import LORA, QUICK, loss_series, request_in, toy_cell
from tests.workspace.worlds import arrived, place_in, shown

PLAIN = LORA | {"lora_dropout": 0.0}
"""Random numbers of dropout fall differently on other micro-batches."""


def cell_of(base: BaseModel, tokens: Artifact, batch: int = 8, **changes: Any) -> Cell:
    changes = {"auto_micro_batch": True, "per_device_train_batch_size": batch} | changes
    return toy_cell(base, tokens, PLAIN, TrainingSettings.model_validate(QUICK.model_dump() | changes))


class Attempts:
    """Trains what fits and says what was tried."""

    def __init__(self, artifact: Artifact, fitting: int) -> None:
        self.tried: list[str] = []
        self.announced: list[tuple[str, str]] = []
        self._artifact = artifact
        self._fitting = fitting

    def attempt(self, cell: Cell) -> Artifact:
        self.tried.append(micro_batch_text(cell.training))
        if cell.training.per_device_train_batch_size > self._fitting:
            raise BatchTooLargeError(f"no room for {self.tried[-1]}", fix="Set something")
        return self._artifact

    def announce(self, cell: Cell, reason: str) -> None:
        self.announced.append((micro_batch_text(cell.training), reason))

    def run(self, cell: Cell, works: Path) -> Cell:
        return train_fitting(cell, works, self.attempt, self.announce)[0]


def test_it_is_halved_until_it_fits_and_the_cell_that_ran_has_a_name_of_its_own(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    asked, attempts = cell_of(base, tokens), Attempts(tokens, fitting=2)
    ran = attempts.run(asked, tmp_path)
    assert attempts.tried == ["8 x 1", "4 x 2", "2 x 4"]
    assert attempts.announced == [("4 x 2", "no room for 8 x 1"), ("2 x 4", "no room for 4 x 2")]
    assert ran.fingerprint == cell_of(base, tokens, 2, gradient_accumulation_steps=4).fingerprint != asked.fingerprint
    assert (ran.label, ran.seed, ran.method) == (asked.label, asked.seed, asked.method)


def test_what_was_found_out_is_where_the_next_run_begins(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    asked = cell_of(base, tokens)
    Attempts(tokens, fitting=2).run(asked, tmp_path)
    again = Attempts(tokens, fitting=2)
    again.run(asked, tmp_path)
    assert again.tried == ["2 x 4"]
    assert again.announced == [("2 x 4", "no room for 4 x 2")]
    anew = Attempts(tokens, fitting=8)
    (tmp_path / asked.fingerprint / FILE).unlink()
    anew.run(asked, tmp_path)
    assert anew.tried == ["8 x 1"]


def test_a_memory_that_is_damaged_or_not_wanted_any_more_is_not_followed(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    asked = cell_of(base, tokens)
    Attempts(tokens, fitting=2).run(asked, tmp_path)
    by_hand = Attempts(tokens, fitting=8)
    by_hand.run(cell_of(base, tokens, auto_micro_batch=False), tmp_path)
    assert by_hand.tried == ["8 x 1"]
    (tmp_path / asked.fingerprint / FILE).write_text("{")
    damaged = Attempts(tokens, fitting=8)
    damaged.run(asked, tmp_path)
    assert damaged.tried == ["8 x 1"]


def test_even_one_sequence_may_be_too_much(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    attempts = Attempts(tokens, fitting=0)
    with pytest.raises(BatchTooLargeError, match="no room for 1 x 8"):
        attempts.run(cell_of(base, tokens), tmp_path)
    assert attempts.tried == ["8 x 1", "4 x 2", "2 x 4", "1 x 8"]


def test_nothing_is_tried_again_unless_asked_for(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    attempts = Attempts(tokens, fitting=2)
    with pytest.raises(BatchTooLargeError):
        attempts.run(cell_of(base, tokens, auto_micro_batch=False), tmp_path)
    assert attempts.tried == ["8 x 1"]
    assert not list(tmp_path.iterdir())


def test_a_shortage_that_no_micro_batch_mends_is_not_tried_again(
    base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    def fail(cell: Cell) -> Artifact:
        raise ResourceError("the disk is full")

    with pytest.raises(ResourceError, match="disk"):
        train_fitting(cell_of(base, tokens), tmp_path, fail, lambda cell, reason: None)


def test_cells_side_by_side_are_named_as_a_possible_cause(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    cell, attempts = cell_of(base, tokens, auto_micro_batch=False), Attempts(tokens, fitting=2)
    with pytest.raises(BatchTooLargeError) as alone:
        attempts.run(cell, tmp_path)
    with sharing(Slots(((), ()))), pytest.raises(BatchTooLargeError) as beside:
        attempts.run(cell, tmp_path)
    assert alone.value.fix == "Set something"
    assert "distributed.parallel_cells=1, since up to 2 cells share" in beside.value.fix


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_step_sees_the_same_rows_however_its_batch_is_cut(
    base: BaseModel, tokens: Artifact, tmp_path: Path, ranks: int
) -> None:
    whole = cell_of(base, tokens, 8 // ranks).model_copy(update={"layout": Layout(ranks_per_node=ranks)})
    series = []
    for micro in (MicroBatch(8 // ranks, 1), MicroBatch(2, 4 // ranks), MicroBatch(1, 8 // ranks)):
        request = request_in(tmp_path / str(micro.sequences), with_micro_batch(whole, micro))
        trained_by_ranks(request)
        series.append(loss_series(request))
    assert [step for step, _ in series[0]] == list(range(1, 9)), "two passes over 30 rows, with a part at their ends"
    for other in series[1:]:
        assert other == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in series[0]]


def with_room_for(sequences: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which a larger micro-batch ends as on a GPU, from the third step on."""
    honest: Callable[..., torch.Tensor] = CellTrainer.compute_loss

    def compute_loss(self: CellTrainer, model: nn.Module, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any):
        if len(inputs["input_ids"]) > sequences and self.state.global_step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return honest(self, model, inputs, *rest, **more)

    monkeypatch.setattr(CellTrainer, "compute_loss", compute_loss)


def test_the_step_trains_what_fits_and_says_so_on_the_board_and_in_the_record(
    base: BaseModel, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_in(tmp_path / "runs")
    asked = cell_of(base, tokens, 4)
    with_room_for(2, monkeypatch)
    trained = train.fn(asked, ForkLauncher(), place)
    assert micro_batch_text(trained.cell.training) == "2 x 2"
    assert trained.artifact.key == trained.cell.fingerprint
    assert "again with half the micro-batch: out of memory at step 3, on a batch of 4 x" in shown(place).detail
    run = arrived(place)
    assert run.tags["tuneline.micro_batch"] == "2 x 2"
    assert run.tags["tuneline.cell"] == trained.cell.fingerprint
    assert "CUDA out of memory" in run.tags["tuneline.micro_batch_reason"]
    assert [step for step, _ in run.series("train/loss")] == list(range(1, 9))
    assert not list(place.workspace.work.glob("*/checkpoints")), "no attempt leaves any"
