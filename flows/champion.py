"""What production serves now sits the same exam as the challengers."""

from __future__ import annotations

from typing import NamedTuple

from prefect.futures import PrefectFuture

from configs.experiment import Experiment
from flows.outcome import error_of, value_of
from tasks.evaluate import evaluate
from tasks.evaluation.exam import Exam
from tasks.find_champion import PlacedChampion, find_champion
from tasks.plan import Material
from tasks.records import ChampionCell, Context
from tasks.workspace.session import Session


class Asked(NamedTuple):
    """The champion, and the evaluation that is under way; None where it cannot be asked."""

    placed: PlacedChampion
    scored: PrefectFuture | None


def ask_champion(settings: Experiment, material: Material, exam: Exam, shared: Context, here: Session) -> Asked | None:
    """Begin to evaluate the champion beside the cells; None where nothing is registered."""
    if not settings.registry.model:
        return None
    base = material.extended.base
    placed = find_champion.submit(settings.registry.model, base, settings.tracking, shared, here.place).result()
    if placed.cell.merged is None:
        return Asked(placed, None)
    return Asked(placed, evaluate.submit(placed.cell.merged, exam, placed.place))


def answered(asked: Asked | None, here: Session) -> ChampionCell | None:
    """The champion with its scores, or with the reason why it has none: that fails nothing but a gate."""
    if asked is None:
        return None
    cell, scored = asked.placed.cell, asked.scored
    if scored is None or cell.run is None:
        return cell
    scored.wait()
    here.flush()
    return cell.answered(value_of(scored), error_of(scored), here.run_id(cell.run))
