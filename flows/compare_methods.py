"""The product: prepare, tokenise, then train, merge and evaluate every cell, compare, register the winner."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas import State
from prefect.futures import PrefectFuture

from configs.experiment import Experiment
from flows.accelerators import accelerator_permit
from flows.announce import announce_registered
from flows.champion import answered, ask_champion
from flows.guarding import end_with_worker
from flows.naming import named
from flows.news import refuse_without_model, unchanged
from flows.outcome import FlowOutcome, ended, error_of, failing_plainly, outcome_of, value_of
from flows.parts import (
    Compared,
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
from flows.progress import mirror
from flows.pulse import telling_progress
from flows.reconcile import NOTED, note_flow_run
from flows.ticks import take_over_due_ticks
from tasks.compare import compare
from tasks.comparison.values import Comparison
from tasks.data.values import PreparedData
from tasks.evaluate import evaluate
from tasks.evaluation.exam import Exam
from tasks.extend_vocabulary import extend_vocabulary
from tasks.find_base import find_base
from tasks.find_sources import find_sources
from tasks.foundation.values import Value
from tasks.launch import Launcher
from tasks.merge import merge
from tasks.merging.settings import MergeSettings
from tasks.plan import Material, PlannedCell, plan
from tasks.prepare_data import prepare_data
from tasks.records import CellOutcome
from tasks.register import register
from tasks.registry.values import RegisteredVersion
from tasks.tokenize_data import tokenize_data
from tasks.train import train
from tasks.training.lineage import Resume, parse_resume
from tasks.workspace import Place
from tasks.workspace.session import Session, session


@flow(name="compare-methods", flow_run_name="compare {experiment}", persist_result=False, **NOTED)
@failing_plainly
def compare_methods(
    experiment: str,
    overrides: dict[str, Any] = {},  # noqa: B006  (Prefect's form shows this default, and nothing writes to it)
    resume: bool = False,
    allow_world_size: bool = False,
    only_new_data: bool = False,
) -> State[FlowOutcome]:
    """Train every method of an experiment on the same data, compare them, and register the winner.

    Its state is `Failed` when a cell or the registration failed; what there is of the comparison is its data all the
    same.

    Args:
        experiment: The experiment: a file, relative to the working directory, or shipped:NAME.
        overrides: Changes as JSON, for example {"training.max_steps": 100}; keys as on the command line.
        resume: Go on from a checkpoint, or refuse with the difference, where settings have changed since.
        allow_world_size: Go on from a checkpoint of another number of ranks; implies resume.
        only_new_data: Train nothing when the newest version of registry.model was made from the same rows.
    """
    end_with_worker()
    take_over_due_ticks()
    note_flow_run()
    settings = load_settings(experiment, overrides)
    if only_new_data:
        refuse_without_model(settings)
    asked = Asked(
        flow="compare-methods",
        resume=parse_resume(resume, ["world_size"] if allow_world_size else []),
        only_new_data=only_new_data,
    )
    return compared(settings, asked)


class Asked(Value):
    """How a comparison is run, beside what it compares."""

    flow: str
    """Name of the flow, for the record."""
    resume: Resume = Resume()
    only_new_data: bool = False


def compared(settings: Experiment, asked: Asked) -> State[FlowOutcome]:
    """Every step, for all cells."""
    specs = specs_of(settings, asked.resume)
    folders = workspace()
    opening = opening_of(settings, asked.flow)
    permit = accelerator_permit(os.environ, settings.distributed.ranks_here)
    with telling_progress(folders.board(settings.name)), mirror() as page, session(opening, folders, permit) as here:
        page.follow(here)
        prepared = prepare_data.submit(settings.data, here.place).result()
        if asked.only_new_data and (same := unchanged(settings, prepared)) is not None:
            return same
        material = prepare_material(settings, prepared, here.place)
        shared = context_of(settings)
        if any(method.sources() for method in settings.methods):
            specs = find_sources(specs, material.extended.base, settings.tracking, here.place)
        cells = plan(specs, material, settings.training, shared, here.place)
        exam = exam_of(settings, material)
        champion = ask_champion(settings, material, exam, shared, here)
        outcomes = run_cells(cells, settings.distributed, exam, settings.merge, here)
        together = Compared(outcomes, answered(champion, here))
        comparison = compare(outcomes, together.champion, yardstick_of(settings), settings.tracking, here.place)
        registered: PrefectFuture | None = None
        if settings.registry.model and (winner := winner_of(comparison, outcomes)):
            registered = register.submit(registration_of(settings, winner, together, material, shared), here.place)
            registered.wait()
    version: RegisteredVersion | None = value_of(registered)
    announce_registered(version)
    return ended(
        FlowOutcome(
            name=settings.name,
            comparison=comparison,
            outcomes=tuple(outcomes),
            version=version,
            registration_error=error_of(registered),
            unsent_events=here.unsent,
        )
    )


def prepare_material(settings: Experiment, prepared: PreparedData, place: Place) -> Material:
    """What all cells share. (A Prefect task that is called, not submitted, hands back a Cached state unopened.)"""
    base = find_base.submit(settings.model, place).result()
    extended = extend_vocabulary.submit(base, prepared, settings.model, place).result()
    tokens = tokenize_data.submit(prepared, extended.base, settings.data, place).result()
    return Material(extended=extended, prepared=prepared, tokens=tokens, conditions=conditions_of(settings))


def run_cells(
    cells: Sequence[PlannedCell], launcher: Launcher, exam: Exam, merging: MergeSettings, here: Session
) -> list[CellOutcome]:
    """All cells side by side as far as the slots allow; a failed one does not stop the others."""
    steps = [steps_of(planned, launcher, exam, merging) for planned in cells]
    for futures in steps:
        futures[-1].wait()
    here.flush()
    return [
        outcome_of(planned, futures, here.run_id(planned.place.run))
        for planned, futures in zip(cells, steps, strict=True)
    ]


def steps_of(
    planned: PlannedCell, launcher: Launcher, exam: Exam, merging: MergeSettings
) -> tuple[PrefectFuture, PrefectFuture, PrefectFuture]:
    """The three steps of a cell, each of which waits for the one before."""
    place, title = planned.place, planned.title
    trained = named(train, f"train {title}").submit(planned.cell, launcher, place)
    merged = named(merge, f"merge {title}").submit(trained, merging, place)
    return trained, merged, named(evaluate, f"evaluate {title}").submit(merged, exam, place)


def winner_of(comparison: Comparison, outcomes: Sequence[CellOutcome]) -> CellOutcome | None:
    """The outcome of the cell that won."""
    return next((outcome for outcome in outcomes if outcome.cell.label == comparison.winner), None)
