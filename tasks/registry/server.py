"""The few calls to MLflow's registry: short patience, and every failure as an error by cause."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from tasks.foundation.errors import ConfigError, DependencyError, ResourceError, TunelineError
from tasks.foundation.values import Value
from tasks.tracking.settings import TrackingSettings

PACKAGE_TAG = "tuneline.package_sha256"
_ANSWER_SECONDS = 5
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own defaults (7 retries of 120 s) would hold a finished pipeline for minutes."""
_UPLOAD_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class StoredVersion(Value):
    """A version that stands in the registry."""

    version: int
    run_id: str


class Registry:
    """One MLflow server, or one database file, with its registry."""

    def __init__(self, tracking: TrackingSettings) -> None:
        """Make sure that the server answers at all, within seconds.

        Raises:
            DependencyError: it does not.
        """
        self.uri = tracking_uri(tracking)
        self._require_answer()
        with self._calling(_PATIENCE):
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def find(self, name: str, digest: str) -> StoredVersion | None:
        """The oldest version that carries this package's digest."""
        with self._calling(_PATIENCE):
            condition = f"name = '{name}' and tag.`{PACKAGE_TAG}` = '{digest}'"
            found = self._client.search_model_versions(condition)
        versions = [StoredVersion(version=int(each.version), run_id=each.run_id or "") for each in found]
        return min(versions, key=lambda each: each.version, default=None)

    def upload(self, run_id: str, folder: Path, name: str) -> str:
        """Copy a folder into a run's artifacts; doing it again overwrites. Returns the URI `runs:/…`."""
        with self._calling(_UPLOAD_PATIENCE):
            self._client.log_artifacts(run_id, str(folder), name)
        return f"runs:/{run_id}/{name}"

    def create(self, name: str, source: str, tags: Mapping[str, str], description: str) -> StoredVersion:
        """A new version; its tags are written in the same transaction, so that it is found again by its digest."""
        run_id = source.removeprefix("runs:/").partition("/")[0]
        with self._calling(_PATIENCE):
            if not self._client.search_registered_models(f"name = '{name}'"):
                self._create_model(name)
            version = self._client.create_model_version(
                name, source, run_id=run_id, tags=dict(tags), description=description
            )
        return StoredVersion(version=int(version.version), run_id=run_id)

    def point(self, name: str, alias: str, version: int) -> None:
        """Move the alias to the version unless it stands there."""
        with self._calling(_PATIENCE):
            aliases = self._client.get_registered_model(name).aliases
            if str(aliases.get(alias)) != str(version):
                self._client.set_registered_model_alias(name, alias, str(version))

    def _create_model(self, name: str) -> None:
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _require_answer(self) -> None:
        if not self.uri.startswith(("http://", "https://")):
            return
        try:
            status = requests.get(f"{self.uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS).status_code
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        if status >= 500:
            raise self._unreachable(f"it answers with HTTP status {status}")

    @contextmanager
    def _calling(self, patience: Mapping[str, str]) -> Iterator[None]:
        try:
            with _environment(patience):
                yield
        except MlflowException as error:
            if error.error_code == "INVALID_PARAMETER_VALUE":
                raise ConfigError(_first_line(error), where="registry") from error
            raise self._unreachable(error) from error
        except (SQLAlchemyError, requests.RequestException) as error:
            raise self._unreachable(error) from error
        except OSError as error:
            raise ResourceError(
                f"the model cannot be stored: {error}", where="registry", fix="Free space, run again"
            ) from error

    def _unreachable(self, cause: object) -> TunelineError:
        return DependencyError(
            f"the model registry does not answer as it should: {_first_line(cause)}",
            where=_without_password(self.uri),
            fix="Nothing is lost: when the server is back, run the same command again",
        )


def tracking_uri(tracking: TrackingSettings) -> str:
    """The experiment's URI; MLFLOW_TRACKING_URI where the experiment names none."""
    if "uri" in tracking.model_fields_set:
        return tracking.uri
    return os.environ.get("MLFLOW_TRACKING_URI") or tracking.uri


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that the user has not set, and take them back."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _first_line(cause: object) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0][:300] if lines else type(cause).__name__


def _without_password(uri: str) -> str:
    """`https://user:secret@host` without what stands before the host."""
    scheme, mark, rest = uri.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
