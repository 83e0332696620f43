"""What MLflow knows of an earlier run or a registered version, and its files: for experiments that go on from one.

Import it where a reference asks for it only: it imports MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tasks.foundation.errors import DependencyError
from tasks.foundation.values import Value
from tasks.tracking.environment import set_mlflow_defaults
from tasks.tracking.mlflow_sink import two_kinds_of_failure
from tasks.tracking.protocol import RefusedError, UnavailableError
from tasks.tracking.reachable import check_reachable
from tasks.tracking.redaction import redact
from tasks.tracking.settings import TrackingSettings
from tasks.tracking.uri import tracking_uri

_ANSWER_SECONDS = 5
_MOST_CELLS = 200


class KnownRun(Value):
    """A run as it stands in MLflow."""

    run_id: str
    experiment_id: str
    status: str
    """`RUNNING`, `FINISHED`, `FAILED` or `KILLED`."""
    deleted: bool
    tags: dict[str, str]


class KnownVersion(Value):
    """A version of a registered model."""

    name: str
    version: int
    source: str
    """`runs:/<run>/<folder>` where tuneline registered it."""
    tags: dict[str, str]


class Lookup:
    """Asks one MLflow server, or one database file."""

    def __init__(self, tracking: TrackingSettings) -> None:
        """Make sure that it answers at all, within seconds.

        Raises:
            DependencyError: it does not.
        """
        set_mlflow_defaults()
        self.uri = tracking_uri(tracking)
        check_reachable(self.uri, _ANSWER_SECONDS)
        self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def run(self, run_id: str) -> KnownRun | None:
        """The run, or None where there is none of this id."""
        with self._asking():
            try:
                with two_kinds_of_failure():
                    run = self._client.get_run(run_id)
            except RefusedError:
                return None
        return _known(run)

    def runs_below(self, parent: KnownRun) -> list[KnownRun]:
        """The runs of a comparison's cells, the oldest first."""
        asked = f"tags.`mlflow.parentRunId` = '{parent.run_id}'"
        with self._asking(), two_kinds_of_failure():
            found = self._client.search_runs(
                [parent.experiment_id], asked, max_results=_MOST_CELLS, order_by=["start_time ASC"]
            )
        return [_known(run) for run in found]

    def version(self, name: str, version: str, alias: str) -> KnownVersion | None:
        """The version of this number, or where the alias stands; None where there is none.

        The model is asked for first: a server with passwords says of the version of a model that is not there that it
        is not allowed, not that there is none.
        """
        known = self.aliases(name)
        number = version if known is None or not alias else known.get(alias)
        if known is None or number is None:
            return None
        with self._asking():
            try:
                with two_kinds_of_failure():
                    found = self._client.get_model_version(name, str(number))
            except RefusedError:
                return None
        return KnownVersion(name=name, version=int(found.version), source=found.source or "", tags=dict(found.tags))

    def aliases(self, name: str) -> dict[str, int] | None:
        """Alias -> version of a registered model; None where there is no model of this name."""
        with self._asking():
            try:
                with two_kinds_of_failure():
                    found = self._client.get_registered_model(name).aliases
            except RefusedError:
                return None
        return {alias: int(version) for alias, version in sorted(found.items())}

    def newest(self, name: str) -> KnownVersion | None:
        """The version with the highest number; None where there is none."""
        with self._asking(), two_kinds_of_failure():
            newest = ["version_number DESC"]
            found = self._client.search_model_versions(f"name = '{name}'", max_results=1, order_by=newest)
        if not found:
            return None
        (version,) = found
        return KnownVersion(
            name=name, version=int(version.version), source=version.source or "", tags=dict(version.tags)
        )

    def download(self, run_id: str, path: str, target: Path) -> Path | None:
        """Copy a file or folder of a run's artifacts below `target`; None where the run has nothing there."""
        with self._asking(), two_kinds_of_failure():
            try:
                folder = path.rpartition("/")[0]
                if path not in {entry.path for entry in self._client.list_artifacts(run_id, folder or None)}:
                    return None
                return Path(self._client.download_artifacts(run_id, path, str(target)))
            except RefusedError:
                return None

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except UnavailableError as error:
            raise DependencyError(
                f"MLflow does not answer: {error.what}",
                where=redact(self.uri),
                fix="Run it again when it does, or name the adapter's or model's folder",
            ) from None


def _known(run: Run) -> KnownRun:
    return KnownRun(
        run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        status=run.info.status,
        deleted=run.info.lifecycle_stage != "active",
        tags=dict(run.data.tags),
    )
