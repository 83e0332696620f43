"""Step 2b: the cells of the comparison, each with a run of its own in the record."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from tasks.data.values import PreparedData, TokenizedData
from tasks.foundation.values import Value
from tasks.methods import Conditions
from tasks.models.values import BaseModel
from tasks.records import Context, describe_cell, describe_run, record_data, record_tokens
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tasks.workspace import Place, open_cell, reporting
from tasks.workspace.board import Board, CellState


class Material(Value):
    """What all cells share."""

    base: BaseModel
    prepared: PreparedData
    tokens: TokenizedData
    conditions: Conditions
    """What methods may have to refuse."""


class PlannedCell(Value):
    """A cell and where it reports to."""

    cell: Cell
    place: Place


@task(name="plan cells", persist_result=False)
def plan(
    specs: Sequence[CellSpec], material: Material, training: TrainingSettings, shared: Context, place: Place
) -> tuple[PlannedCell, ...]:
    """Name every cell by what decides its bytes, and open its run under the comparison's."""
    with reporting(place, "prepare"):
        describe_run(place.run, shared)
        cells = [
            plan_cell(spec, material.base, material.tokens.artifact, training, material.conditions) for spec in specs
        ]
        return tuple(
            _open(cell, material, shared, open_cell(place, cell.label, number, shared.experiment))
            for number, cell in enumerate(cells, 1)
        )


def _open(cell: Cell, material: Material, shared: Context, place: Place) -> PlannedCell:
    describe_run(place.run, shared)
    describe_cell(cell, place.run, shared)
    record_data(material.prepared, [place.run])
    record_tokens(material.tokens, [place.run])
    Board(place.board).show(CellState(label=cell.label, phase="waiting", position=place.position))
    return PlannedCell(cell=cell, place=place)
