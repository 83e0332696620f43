"""Step 3: one cell, trained under torchrun."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.launch import Launcher
from tasks.records import metric_points, record_training
from tasks.states import finished
from tasks.tracking import Run
from tasks.training.run import Watch, clean_up, read_trained, request_for, untrained
from tasks.training.run import train as run_worker
from tasks.training.values import Cell, TrainedCell
from tasks.workspace import Place, working


@task(name="train", task_run_name="train {place.label}", persist_result=False)
def train(cell: Cell, launcher: Launcher, place: Place) -> TrainedCell | State[TrainedCell]:
    """Train from the start or from the newest good checkpoint; or adopt weights with the same fingerprint."""
    if not cell.trains:
        return untrained(cell)
    with working(place, "train") as reporter:
        work = place.workspace.work / cell.fingerprint
        watch = Watch(
            work,
            lambda lines: Run(place.run).log_metric_series(metric_points(lines)),
            lambda seen: reporter.progress(seen.step, seen.total_steps, seen.loss, seen.seconds_left),
        )
        artifact = place.workspace.store.make(
            "train",
            cell.fingerprint,
            lambda folder: run_worker(request_for(cell, work, folder), launcher, reporter.devices, watch),
            made_by=place.run.key,
        )
        clean_up(work)
        trained = read_trained(cell, artifact)
        record_training(trained, place.run)
        return finished(trained, cached=artifact.cached)
