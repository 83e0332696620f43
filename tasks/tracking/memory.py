"""The sink of tests: a server in memory that keeps MLflow's rules, and fails where a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.tracking.events import DatasetLogged
from tasks.tracking.protocol import Batch, CreatedRun, NewRun, RefusedError, RunGoneError
from tasks.tracking.values import MetricPoint, RunStatus

Fault = Callable[[str, str], None]
"""Called with the method's name, first with `before` and, its work done, with `after`; may raise or sleep.
A fault `after` is the answer that got lost."""


class MemoryRun:
    """One run as the server knows it."""

    def __init__(self, run_id: str, new: NewRun) -> None:
        self.run_id = run_id
        self.new = new
        self.tags = dict(new.tags)
        self.params: dict[str, str] = {}
        self.metrics: dict[str, MetricPoint] = {}
        self.artifacts: dict[str, bytes] = {}
        self.datasets: dict[tuple[str, str], DatasetLogged] = {}
        self.status = "RUNNING"
        self.ended_ms = 0

    def series(self, name: str) -> list[tuple[int, float]]:
        """Step and value of a metric, in the order in which they came."""
        return [(point.step, point.value) for point in self.metrics.values() if point.name == name]


def _no_fault(method: str, moment: str) -> None:
    return None


class MemorySink:
    """A `Sink` whose runs can be looked at."""

    def __init__(self, fault: Fault = _no_fault) -> None:
        self.fault = fault
        self.runs: dict[str, MemoryRun] = {}
        self.batches: list[Batch] = []
        """Every batch that arrived, also those that changed nothing."""

    def named(self, name: str) -> MemoryRun:
        """The one run of that name."""
        (run,) = [run for run in self.runs.values() if run.new.name == name]
        return run

    def create_run(self, new: NewRun) -> CreatedRun:
        self.fault("create_run", "before")
        known = [run for run in self.runs.values() if run.new.key == new.key]
        run = known[0] if known else MemoryRun(f"run{len(self.runs)}", new)
        self.runs[run.run_id] = run
        self.fault("create_run", "after")
        return CreatedRun(run_id=run.run_id, experiment_id=f"id of {new.experiment}")

    def log_batch(self, run_id: str, batch: Batch) -> None:
        self.fault("log_batch", "before")
        run = self._run(run_id)
        if len(dict(batch.params)) < len(batch.params):
            raise RefusedError("a param occurs twice in one batch")
        for key, value in batch.params:
            if run.params.get(key, value) != value:
                raise RefusedError(f"param {key} is {run.params[key]} already")
        self.batches.append(batch)
        run.params.update(batch.params)
        run.metrics.update({repr(point): point for point in batch.metrics})
        run.tags.update(batch.tags)
        self.fault("log_batch", "after")

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        self.fault("log_artifact", "before")
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            name = Path(folder, path.name, file.relative_to(path)) if path.is_dir() else Path(folder, path.name)
            self._run(run_id).artifacts[name.as_posix()] = file.read_bytes()
        self.fault("log_artifact", "after")

    def log_input(self, run_id: str, dataset: DatasetLogged) -> None:
        self.fault("log_input", "before")
        self._run(run_id).datasets[dataset.name, dataset.digest] = dataset
        self.fault("log_input", "after")

    def set_terminated(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        self.fault("set_terminated", "before")
        run = self._run(run_id)
        run.status, run.ended_ms = status, ended_ms
        self.fault("set_terminated", "after")

    def _run(self, run_id: str) -> MemoryRun:
        if run_id not in self.runs:
            raise RunGoneError(f"no run {run_id}")
        return self.runs[run_id]
