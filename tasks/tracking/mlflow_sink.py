"""Runs in MLflow: a server over HTTP, or a database that this process opens itself.

Import it through the shipper only, on the thread that owns the program: importing MLflow takes a second or two.
Every call repeats harmlessly: MLflow's SQL store keeps (name, value, step, time) of a metric once, equal params and
data sets once, tags and artifacts are replaced, and a run is looked up by its journal's tag before it is created.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property
from pathlib import Path

import requests
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from tasks.tracking.database import make_database
from tasks.tracking.events import DatasetLogged
from tasks.tracking.limits import MAX_DATASET_DIGEST_CHARS, safe_key
from tasks.tracking.protocol import (
    JOURNAL_TAG,
    Batch,
    CreatedRun,
    NewRun,
    RefusedError,
    RunGoneError,
    UnavailableError,
)
from tasks.tracking.redaction import redact
from tasks.tracking.uri import is_server, sqlite_file
from tasks.tracking.values import RunStatus

log = logging.getLogger(__name__)

_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE", "RESOURCE_CONFLICT"}
"""MLflow's answers to a call that it has understood. Everything else (no answer, 5xx, 401, a proxy's 404) may pass."""
_REFUSED_UPLOADS = {400, 405, 409, 411, 413, 414, 415, 422}
"""HTTP answers to an artifact that the same upload will get again."""
_TOO_LARGE = "failed with error code 413"
"""How MLflow words the answer of a proxy that takes smaller requests only: halves of the batch may fit."""
_BACKEND = re.compile(r"sqlalche\.me/e/\w+/(?!9h9h|gkpj)")
"""SQLAlchemy's name for a fault of the database (no free connection, a damaged file), but not for unfit data (9h9h) or
a broken constraint (gkpj). MLflow passes all of them on as bad requests."""
_NAME_CHARS = 500
_TAG_VALUE_CHARS = 500
_calling: ContextVar[bool] = ContextVar("calling", default=False)
"""True in the thread that is inside a call to MLflow."""


_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""MLflow's page opens such an experiment with its table of runs; without a kind it shows traces."""


class MlflowSink:
    """The `Sink` in front of `mlflow.tracking.MlflowClient`."""

    def __init__(self, uri: str, artifact_root: Path) -> None:
        self._uri = uri
        self._artifact_root = artifact_root.absolute()
        store = "rest_store" if is_server(uri) else "sqlalchemy_store"
        importlib.import_module(f"mlflow.store.tracking.{store}")  # here, not in the shipper's thread
        _quieten_mlflow()

    @cached_property
    def _client(self) -> MlflowClient:
        """Made in the shipper's thread: it creates or migrates a SQLite database, which takes seconds."""
        if (file := sqlite_file(self._uri)) is not None and not file.exists():
            make_database(file)
        return MlflowClient(self._uri, registry_uri=self._uri)

    def create_run(self, new: NewRun) -> CreatedRun:
        with two_kinds_of_failure():
            experiment = self._experiment(new.experiment)
            runs = self._runs_of(experiment.experiment_id, new.key)
            run = runs[0] if runs else self._create(experiment, new)
            return CreatedRun(run_id=run.info.run_id, experiment_id=experiment.experiment_id)

    def log_batch(self, run_id: str, batch: Batch) -> None:
        metrics = [Metric(point.name, point.value, point.timestamp_ms, point.step) for point in batch.metrics]
        params = [Param(key, value) for key, value in batch.params]
        tags = [RunTag(key, value) for key, value in batch.tags]
        with two_kinds_of_failure(), self._noticing_a_deleted_run(run_id):
            self._client.log_batch(run_id, metrics=metrics, params=params, tags=tags)

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        with two_kinds_of_failure():
            self._client.log_artifact(run_id, str(path), folder or None)

    def log_input(self, run_id: str, dataset: DatasetLogged) -> None:
        known = Dataset(
            name=dataset.name[:_NAME_CHARS],
            digest=dataset.digest[:MAX_DATASET_DIGEST_CHARS],
            source_type="http" if is_server(dataset.source) else "local",
            source=json.dumps({"uri": dataset.source}),
        )
        tags = {"mlflow.data.context": dataset.context, "tuneline.digest": dataset.digest}
        inputs = [InputTag(key, value[:_TAG_VALUE_CHARS]) for key, value in tags.items()]
        with two_kinds_of_failure():
            self._client.log_inputs(run_id, [DatasetInput(known, inputs)])

    def set_terminated(self, run_id: str, status: RunStatus, ended_ms: int) -> None:
        with two_kinds_of_failure():
            self._delete_twins(run_id)
            self._client.set_terminated(run_id, status=status, end_time=ended_ms)

    def _experiment(self, name: str) -> Experiment:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            return self._create_experiment(name)
        if experiment.lifecycle_stage != "active":
            log.warning("the experiment %s was deleted in MLflow; it is restored for the new run", name)
            self._client.restore_experiment(experiment.experiment_id)
        return experiment

    def _create_experiment(self, name: str) -> Experiment:
        """The artifacts of a database lie where we say; a server knows its own place."""
        location = None if is_server(self._uri) else (self._artifact_root / safe_key(name).replace("/", "-")).as_uri()
        try:
            self._client.create_experiment(name, artifact_location=location, tags=_KIND)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        found = self._client.get_experiment_by_name(name)
        if found is None:
            raise UnavailableError(f"the experiment {name} was created and is not there")
        return found

    def _create(self, experiment: Experiment, new: NewRun) -> MlflowRun:
        tags = dict(new.tags)
        if new.parent_run_id:
            tags["mlflow.parentRunId"] = new.parent_run_id
        return self._client.create_run(experiment.experiment_id, new.started_ms, tags, new.name)

    def _runs_of(self, experiment_id: str, key: str) -> list[MlflowRun]:
        found = self._client.search_runs(
            [experiment_id], f"tags.`{JOURNAL_TAG}` = '{key}'", order_by=["start_time ASC"]
        )
        return list(found)

    def _delete_twins(self, run_id: str) -> None:
        """A creation that a stalled server carried out after we had given it up and created the run again."""
        run = self._client.get_run(run_id)
        key = run.data.tags.get(JOURNAL_TAG)
        for twin in self._runs_of(run.info.experiment_id, key) if key else []:
            if twin.info.run_id != run_id:
                self._client.delete_run(twin.info.run_id)

    @contextmanager
    def _noticing_a_deleted_run(self, run_id: str) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            if error.error_code in _REFUSALS and self._client.get_run(run_id).info.lifecycle_stage != "active":
                raise RunGoneError(_text(error)) from error
            raise


@contextmanager
def two_kinds_of_failure() -> Iterator[None]:
    """Every failure as unavailable or refused, without passwords and without MLflow's own noise."""
    token = _calling.set(True)
    try:
        yield
    except (RefusedError, UnavailableError):
        raise
    except MlflowException as error:
        raise _translated(error) from None
    except requests.HTTPError as error:
        refused = error.response is not None and error.response.status_code in _REFUSED_UPLOADS
        raise (RefusedError if refused else UnavailableError)(_text(error)) from None
    except Exception as error:
        raise UnavailableError(_text(error)) from None
    finally:
        _calling.reset(token)


def _translated(error: MlflowException) -> RefusedError | UnavailableError:
    if _is_fault_on_the_way(error):
        return UnavailableError(_text(error))
    if error.error_code == "RESOURCE_DOES_NOT_EXIST":
        return RunGoneError(_text(error))
    refused = error.error_code in _REFUSALS or _TOO_LARGE in str(error)
    return (RefusedError if refused else UnavailableError)(_text(error))


def _is_fault_on_the_way(error: MlflowException) -> bool:
    """True for a "bad request" that MLflow itself has not judged: a proxy's, or one that its database broke off."""
    if error.error_code != "BAD_REQUEST":
        return False
    judged = isinstance(error, RestException) or error.__cause__ is not None
    return not judged or bool(_BACKEND.search(str(error)))


def _text(error: Exception) -> str:
    return " ".join(redact(str(error)).split())[:500] or type(error).__name__


class _OutageFilter(logging.Filter):
    """Drops what MLflow prints about an outage while a sink's call is under way (tracebacks, retries)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (_calling.get() and record.name.startswith("mlflow"))


@cache
def _quieten_mlflow() -> None:
    """The shipper reports an outage itself, in one line. What MLflow says elsewhere in the process stays."""
    for handler in logging.getLogger("mlflow").handlers:
        handler.addFilter(_OutageFilter())
    alembic = logging.getLogger("alembic")
    if alembic.level == logging.NOTSET:
        alembic.setLevel(logging.WARNING)  # a line for every migration of a new database
