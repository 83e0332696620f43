"""The shipping process is killed around every call it makes; MLflow has everything exactly once in the end."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tasks.tracking import MetricPoint, Run, RunRef, create_run
from tests.tracking.kids import ship_and_die, start

pytestmark = pytest.mark.xdist_group("mlflow")

POINTS = [
    MetricPoint(name="loss", value=1 / (step + 1), step=step, timestamp_ms=1000 + step // 2) for step in range(1200)
]


def record(spool: Path) -> RunRef:
    """A run whose sending takes about twenty calls."""
    parent = create_run(spool, name="p", experiment="stories")
    ref = create_run(spool, name="cell", experiment="stories", parent=parent)
    Run(parent).finish("FINISHED")
    run = Run(ref)
    run.log_params({"a": 1, "b": 2})
    for part in range(6):
        run.log_metric_series(POINTS[200 * part : 200 * (part + 1)])
        run.log_text(f"part {part}", f"parts/{part}.txt")
    run.log_table([{"a": 1}], "t.json")
    run.log_dataset("d", "0" * 64, "x", "training")
    run.finish("FINISHED")
    return ref


def check(database: str, ref: RunRef) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(database)
    runs = client.search_runs([client.get_experiment_by_name("stories").experiment_id])
    (cell,) = [run for run in runs if run.info.run_name == "cell"]
    (parent,) = [run for run in runs if run.info.run_name == "p"]
    history = client.get_metric_history(cell.info.run_id, "loss")
    assert [(point.step, point.value, point.timestamp) for point in sorted(history, key=lambda point: point.step)] == [
        (point.step, point.value, point.timestamp_ms) for point in POINTS
    ]
    assert cell.data.params == {"a": "1", "b": "2"}
    assert cell.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert len(client.list_artifacts(cell.info.run_id, "parts")) == 6
    assert len(cell.inputs.dataset_inputs) == 1
    assert cell.info.status == "FINISHED"
    assert [path.name for path in ref.journal.parent.iterdir() if "rejected" in path.name] == []


@pytest.mark.parametrize("seed", range(2))
def test_killed_just_before_and_just_after_calls_everything_is_there_exactly_once(
    database: str, tmp_path: Path, seed: int
) -> None:
    """Odd moments are before a call, even ones between its answer and the cursor's commit."""
    rng = random.Random(seed)
    ref = record(tmp_path / "spool")
    deaths = 0
    while ship(database, tmp_path / "spool", rng.randint(1, 9)) != 0:
        deaths += 1

    assert deaths > 5
    check(database, ref)


def ship(database: str, spool: Path, moments: int) -> int | None:
    process = start(ship_and_die, database, spool, moments)
    process.join(120)
    return process.exitcode


@pytest.mark.system
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_time_everything_is_there_exactly_once(database: str, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ref = record(tmp_path / "spool")
    for _ in range(15):
        process = start(ship_and_die, database, tmp_path / "spool", 0)
        time.sleep(rng.uniform(0.05, 1.0))
        process.kill()
        process.join()

    assert ship(database, tmp_path / "spool", 0) == 0
    check(database, ref)
