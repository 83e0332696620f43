"""Step 2b: the cells of the comparison, each with a run of its own in the record."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect import task

from tasks.data.values import PreparedData, TokenizedData
from tasks.foundation.values import Value
from tasks.launch.children import run_in_child
from tasks.methods import Conditions
from tasks.records import Context, describe_cell, describe_run, record_data, record_tokens, record_vocabulary
from tasks.training.lineage import Resume, with_past
from tasks.training.modules import check_modules, looks_at_modules
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tasks.vocabulary import ExtendedBase
from tasks.workspace import Place, open_cell, reporting
from tasks.workspace.board import Board, CellState

log = logging.getLogger(__name__)


class Material(Value):
    """What all cells share."""

    extended: ExtendedBase
    """The base that every method starts from."""
    prepared: PreparedData
    tokens: TokenizedData
    conditions: Conditions
    """What methods may have to refuse."""


class PlannedCell(Value):
    """A cell and where it reports to."""

    cell: Cell
    place: Place

    @property
    def title(self) -> str:
        """`lora (seed 0)`: the label, and what it does not say itself."""
        cell = self.cell
        said = [str(cell.method["kind"]), f"seed {cell.seed}"] if cell.trains else []
        unsaid = [word for word in said if word not in cell.label]
        return f"{cell.label} ({', '.join(unsaid)})" if unsaid else cell.label


@task(name="plan cells", task_run_name="plan cells", persist_result=False)
def plan(
    specs: Sequence[CellSpec], material: Material, training: TrainingSettings, shared: Context, place: Place
) -> tuple[PlannedCell, ...]:
    """Name every cell by what decides its bytes, and open its run under the comparison's."""
    with reporting(place, "prepare"):
        describe_run(place.run, shared)
        tokens = material.tokens.artifact
        cells = [
            _with_past(
                plan_cell(spec, material.extended.base, tokens, training, material.conditions), spec.resume, place
            )
            for spec in specs
        ]
        _check_modules([cell for cell, _ in cells], place)
        return tuple(
            _open(cell, material, shared, open_cell(place, cell.label, number, shared.experiment), note)
            for number, (cell, note) in enumerate(cells, 1)
        )


def _check_modules(cells: Sequence[Cell], place: Place) -> None:
    """Of those that are still to be trained."""
    store = place.workspace.store
    new = [cell for cell in cells if looks_at_modules(cell) and not store.folder("train", cell.fingerprint).exists()]
    if new:
        run_in_child(check_modules, new)


def _with_past(cell: Cell, resume: Resume, place: Place) -> tuple[Cell, str]:
    """As it will train, and what is to be known of unfinished attempts at it."""
    if place.workspace.store.folder("train", cell.fingerprint).exists():
        return cell, ""
    chosen, note = with_past(cell, resume, place.workspace.work)
    if note:
        log.warning("%s %s", cell.label, note)
    return chosen, note


def _open(cell: Cell, material: Material, shared: Context, place: Place, note: str) -> PlannedCell:
    describe_run(place.run, shared)
    describe_cell(cell, place.run, shared)
    record_data(material.prepared, [place.run])
    record_tokens(material.tokens, [place.run])
    record_vocabulary(material.extended, [place.run])
    Board(place.board).show(CellState(label=cell.label, phase="waiting", position=place.position, detail=note))
    return PlannedCell(cell=cell, place=place)
