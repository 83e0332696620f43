"""Step 3: one cell, trained by the ranks that the launcher starts."""

from __future__ import annotations

import logging

from prefect import task
from prefect.client.schemas import State

from tasks.artifacts import Artifact
from tasks.launch import Launcher
from tasks.records import Series, record_micro_batch, record_restarts, record_training
from tasks.states import finished
from tasks.tracking import redact
from tasks.training.retry import train_fitting
from tasks.training.run import clean_up, read_trained, request_for, untrained
from tasks.training.run import train as run_worker
from tasks.training.supervision import Watch
from tasks.training.values import Cell, TrainedCell
from tasks.workspace import Place, Reporter, working

log = logging.getLogger(__name__)


@task(name="train", task_run_name="train {place.label}", persist_result=False)
def train(cell: Cell, launcher: Launcher, place: Place) -> TrainedCell | State[TrainedCell]:
    """Train from the start or from the newest good checkpoint; or adopt weights with the same fingerprint."""
    if not cell.trains:
        return untrained(cell)
    with working(place, "train") as reporter:
        series = Series(place.run)

        def announce(fitting: Cell, reason: str) -> None:
            record_micro_batch(fitting, reason, place.run)
            reporter.note(f"again with half the micro-batch: {reason}")

        works = place.workspace.work
        ran, artifact = train_fitting(
            cell, works, lambda fitting: _attempt(fitting, launcher, place, reporter, series), announce
        )
        clean_up(works / ran.fingerprint)
        trained = read_trained(ran, artifact)
        record_training(trained, place.run)
        return finished(trained, cached=artifact.cached)


def _attempt(cell: Cell, launcher: Launcher, place: Place, reporter: Reporter, series: Series) -> Artifact:
    """One gang for one cell, or the artifact that is there already."""
    work = place.workspace.work / cell.fingerprint
    watch = Watch(
        work,
        series.add,
        lambda seen: reporter.progress(seen.step, seen.total_steps, seen.loss, seen.seconds_left),
        reporter.note,
        show_output,
    )
    try:
        return place.workspace.store.make(
            "train",
            cell.fingerprint,
            lambda folder: run_worker(request_for(cell, work, folder), launcher, reporter.devices, watch),
            made_by=place.run.key,
        )
    finally:
        record_restarts(watch.restarts, place.run)


def show_output(line: str) -> None:
    """A line that a rank printed, in the log of the task that waits for it; our own log leaves it to the ranks'."""
    log.info("%s", redact(line), extra={"in_own_file": True})
