"""The seam behind the shipper: where runs end up. MLflow is one sink, the memory of a test another.

Every call may be repeated after it has worked, because its answer may have been lost on the way: it then changes
nothing. A sink fails in two ways only, and the shipper treats them apart: try again later, or never again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import ConfigDict

from tasks.foundation.errors import DependencyError, TunelineError
from tasks.foundation.values import Value
from tasks.tracking.events import DatasetLogged
from tasks.tracking.values import MetricPoint, RunStatus

JOURNAL_TAG = "tuneline.journal"
"""The tag that makes the creation of a run idempotent: the run that carries the key is that journal's run."""

TABLES_TAG = "mlflow.loggedArtifacts"
"""Where MLflow's page looks for the tables of a run."""


class UnavailableError(DependencyError):
    """The server cannot be reached, or cannot do its work now. The same call may succeed later."""


class RefusedError(TunelineError):
    """The server has understood the call and will never accept it."""


class RunGoneError(RefusedError):
    """The run was deleted: nothing will ever be accepted for it."""


class NewRun(Value):
    """What a run is created from."""

    key: str
    name: str
    experiment: str
    started_ms: int
    parent_run_id: str | None
    tags: dict[str, str]


class CreatedRun(Value):
    """What the server calls it."""

    run_id: str
    experiment_id: str


class Batch(Value):
    """What one call sends, within the limits of MLflow's log_batch."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    metrics: tuple[MetricPoint, ...] = ()
    params: tuple[tuple[str, str], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Number of metrics, params and tags together."""
        return len(self.metrics) + len(self.params) + len(self.tags)

    def halves(self) -> tuple[Batch, Batch]:
        """Two parts that make up the whole: how the one refused entry is found. Metrics, the many, come off first."""
        if self.metrics and self.size > len(self.metrics):
            return Batch(params=self.params, tags=self.tags), Batch(metrics=self.metrics)
        middle = self.size // 2
        if self.metrics:
            return Batch(metrics=self.metrics[:middle]), Batch(metrics=self.metrics[middle:])
        in_tags = max(0, middle - len(self.params))
        first = Batch(params=self.params[:middle], tags=self.tags[:in_tags])
        return first, Batch(params=self.params[middle:], tags=self.tags[in_tags:])


class Sink(Protocol):
    """Takes the events of runs. Every method raises UnavailableError, RefusedError or RunGoneError and nothing else."""

    def create_run(self, new: NewRun) -> CreatedRun:
        """The run whose tag `tuneline.journal` is the key: found, or created together with its experiment."""

    def log_batch(self, run_id: str, batch: Batch) -> None:
        """Metrics, params and tags. A param that has another value already is refused."""

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """A file or a folder, under its own name; replaces what is there."""

    def log_input(self, run_id: str, dataset: DatasetLogged) -> None:
        """A data set that the run used."""

    def set_terminated(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        """The run's end."""
