"""The product: prepare, tokenise, then train, merge and evaluate every cell, compare, register the winner."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import flow
from prefect.client.schemas import State

from configs.experiment import Experiment
from flows.guarding import end_with_worker
from flows.outcome import FlowOutcome, ended, error_of, outcome_of, value_of
from flows.parts import (
    conditions_of,
    context_of,
    exam_of,
    load_settings,
    opening_of,
    registration_of,
    specs_of,
    workspace,
    yardstick_of,
)
from flows.reconcile import forget_flow_run, note_flow_run
from tasks.compare import compare
from tasks.comparison.values import Comparison
from tasks.evaluate import evaluate
from tasks.evaluation.exam import Exam
from tasks.extend_vocabulary import extend_vocabulary
from tasks.find_base import find_base
from tasks.find_sources import find_sources
from tasks.launch import Launcher
from tasks.merge import merge
from tasks.merging.settings import MergeSettings
from tasks.plan import Material, PlannedCell, plan
from tasks.prepare_data import prepare_data
from tasks.records import CellOutcome
from tasks.register import register
from tasks.tokenize_data import tokenize_data
from tasks.train import train
from tasks.training.lineage import parse_resume
from tasks.workspace import Place
from tasks.workspace.session import Session, session


@flow(
    name="compare-methods",
    flow_run_name="compare {experiment}",
    persist_result=False,
    on_completion=[forget_flow_run],
    on_failure=[forget_flow_run],
    on_crashed=[forget_flow_run],
    on_cancellation=[forget_flow_run],
)
def compare_methods(
    experiment: str, overrides: list[str] | None = None, resume: bool = False, allow: list[str] | None = None
) -> State[FlowOutcome]:
    """Train every method of an experiment on the same data, compare them, and register the winner.

    Its state is `Failed` when a cell or the registration failed; what there is of the comparison is its data all the
    same.

    Args:
        experiment: path of the experiment file, relative to the working directory.
        overrides: changes as `key=value`, for example `training.max_steps=100`.
        resume: go on from a checkpoint or refuse with the difference, instead of training anew where settings changed.
        allow: what may differ from that checkpoint; `world_size` for another number of ranks.
    """
    end_with_worker()
    note_flow_run()
    settings = load_settings(experiment, overrides or [])
    specs = specs_of(settings, parse_resume(resume, allow or []))
    with session(opening_of(settings, "compare-methods"), workspace()) as here:
        material = prepare_material(settings, here.place)
        shared = context_of(settings)
        if any(method.sources() for method in settings.methods):
            specs = find_sources(specs, material.extended.base, settings.tracking, here.place)
        cells = plan(specs, material, settings.training, shared, here.place)
        outcomes = run_cells(cells, settings.distributed, exam_of(settings, material), settings.merge, here)
        comparison = compare(outcomes, yardstick_of(settings), here.place)
        registered = None
        if settings.registry.model and (winner := winner_of(comparison, outcomes)):
            registered = register.submit(registration_of(settings, winner, material, shared), here.place)
            registered.wait()
    return ended(
        FlowOutcome(
            name=settings.name,
            comparison=comparison,
            outcomes=tuple(outcomes),
            version=value_of(registered),
            registration_error=error_of(registered),
            unsent_events=here.unsent,
        )
    )


def prepare_material(settings: Experiment, place: Place) -> Material:
    """What all cells share. (A Prefect task that is called, not submitted, hands back a Cached state unopened.)"""
    base = find_base.submit(settings.model, place).result()
    prepared = prepare_data.submit(settings.data, place).result()
    extended = extend_vocabulary.submit(base, prepared, settings.model, place).result()
    tokens = tokenize_data.submit(prepared, extended.base, settings.data, place).result()
    return Material(extended=extended, prepared=prepared, tokens=tokens, conditions=conditions_of(settings))


def run_cells(
    cells: Sequence[PlannedCell], launcher: Launcher, exam: Exam, merging: MergeSettings, here: Session
) -> list[CellOutcome]:
    """All cells side by side as far as the slots allow; a failed one does not stop the others."""
    trained = [train.submit(planned.cell, launcher, planned.place) for planned in cells]
    merged = [merge.submit(future, merging, planned.place) for future, planned in zip(trained, cells, strict=True)]
    scored = [evaluate.submit(future, exam, planned.place) for future, planned in zip(merged, cells, strict=True)]
    steps = list(zip(trained, merged, scored, strict=True))
    for futures in steps:
        futures[-1].wait()
    here.flush()
    return [
        outcome_of(planned, futures, here.run_id(planned.place.run))
        for planned, futures in zip(cells, steps, strict=True)
    ]


def winner_of(comparison: Comparison, outcomes: Sequence[CellOutcome]) -> CellOutcome | None:
    """The outcome of the cell that won."""
    return next((outcome for outcome in outcomes if outcome.cell.label == comparison.winner), None)
