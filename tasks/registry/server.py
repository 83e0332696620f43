"""The few calls to MLflow's registry: short patience, and every failure as an error by cause."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from tasks.foundation.digests import digest_file
from tasks.foundation.errors import ConfigError, DependencyError, IntegrityError, ResourceError, TunelineError
from tasks.foundation.values import Value
from tasks.tracking import TrackingSettings, check_reachable, redact, tracking_uri

log = logging.getLogger(__name__)

PACKAGE_TAG = "tuneline.package_sha256"
FILES_TAG = "tuneline.files_sha256"
"""Of `files.json`, and so of every file of the version."""
RECORD_TAG = "tuneline.record_sha256"
"""Of the newest record of its evaluation."""
FILES = "files.json"
"""In every package: sha256 of each of its other files."""
_ANSWER_SECONDS = 5
_UPLOAD_SECONDS = "300"
"""A proxying server answers when it has passed the whole file on."""


class StoredVersion(Value):
    """A version that stands in the registry."""

    version: int
    run_id: str
    source: str
    """`runs:/<run>/<folder>`: where its files lie."""


class Registry:
    """One MLflow server, or one database file, with its registry."""

    def __init__(self, tracking: TrackingSettings) -> None:
        """Make sure that it answers at all, within seconds.

        Raises:
            DependencyError: it does not.
        """
        self.uri = tracking_uri(tracking)
        try:
            check_reachable(self.uri, _ANSWER_SECONDS)
        except DependencyError as error:
            raise self._unreachable(error.what) from error
        with self.calling():
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def find(self, name: str, digest: str) -> StoredVersion | None:
        """The oldest version that carries this package's digest and still has its files."""
        with self.calling():
            found = self.client.search_model_versions(f"name = '{name}' and tag.`{PACKAGE_TAG}` = '{digest}'")
        for each in sorted(found, key=lambda each: int(each.version)):
            if FILES_TAG not in each.tags:
                log.warning("%s version %s names no digest of its files; it is left as it is", name, each.version)
                continue
            stored = StoredVersion(version=int(each.version), run_id=each.run_id or "", source=each.source)
            if self._is_whole(stored):
                return stored
            log.warning("%s version %s has lost files, or they were changed; it is left as it is", name, each.version)
        return None

    def _is_whole(self, stored: StoredVersion) -> bool:
        """Whether the files of a version are there, and on a disk of this machine also as they were."""
        from mlflow.exceptions import MlflowException

        folder = stored.source.removeprefix(f"runs:/{stored.run_id}/")
        with self.calling():
            try:
                root = self.client.get_run(stored.run_id).info.artifact_uri
                present = set(self._files_below(stored.run_id, folder))
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return False
            if f"{folder}/{FILES}" not in present:
                return False
            if urlsplit(root).scheme in ("", "file"):
                return _is_as_listed(Path(self.client.download_artifacts(stored.run_id, folder)))
            with TemporaryDirectory() as copy:
                files = Path(self.client.download_artifacts(stored.run_id, f"{folder}/{FILES}", copy))
                return {f"{folder}/{name}" for name in _digests_in(files)} <= present

    def _files_below(self, run_id: str, folder: str) -> Iterator[str]:
        for each in self.client.list_artifacts(run_id, folder):
            if each.is_dir:
                yield from self._files_below(run_id, each.path)
            else:
                yield each.path

    def upload(self, run_id: str, folder: Path, name: str) -> str:
        """Copy a folder into a run's artifacts; doing it again overwrites. Returns its URI `runs:/…`."""
        with self.calling(), _long_uploads():
            self.client.log_artifacts(run_id, str(folder), name)
        return f"runs:/{run_id}/{name}"

    def create(self, name: str, source: str, tags: Mapping[str, str], description: str) -> StoredVersion:
        """A new version; its tags are written in the same transaction, so that it is found again by its digest."""
        run_id = source.removeprefix("runs:/").partition("/")[0]
        with self.calling():
            self._ensure_model(name)
            version = self.client.create_model_version(
                name, source, run_id=run_id, tags=dict(tags), description=description
            )
        return StoredVersion(version=int(version.version), run_id=run_id, source=source)

    def point(self, name: str, alias: str, version: int) -> None:
        """Move the alias to the version unless it stands there."""
        with self.calling():
            aliases = self.client.get_registered_model(name).aliases
            if str(aliases.get(alias)) != str(version):
                self.client.set_registered_model_alias(name, alias, str(version))

    def _ensure_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    @contextmanager
    def calling(self, absent: TunelineError | None = None) -> Iterator[None]:
        """Calls of the client inside fail with an error by cause.

        Args:
            absent: what to raise where the thing that was asked for is not there.
        """
        import requests
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except MlflowException as error:  # `from None`: its own text may name the password, and causes are logged
            if absent is not None and error.error_code == "RESOURCE_DOES_NOT_EXIST":
                raise absent from None
            raise self._by_code(error, error.error_code) from None
        except (SQLAlchemyError, requests.RequestException) as error:
            raise self._unreachable(str(error)) from None
        except OSError as error:
            if absent is not None and isinstance(error, FileNotFoundError):
                raise absent from None
            raise ResourceError(f"the model cannot be stored: {error}", where="registry", fix="Free space") from error

    def _by_code(self, error: Exception, code: str) -> TunelineError:
        message = _first_line(str(error))
        if code in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}:
            return ConfigError(message, where="registry", fix="Correct the section registry")
        if code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
            fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of somebody who may"
            return ConfigError(f"MLflow does not allow it: {message}", where=redact(self.uri), fix=fix)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return IntegrityError(message, where=redact(self.uri), fix="Run the experiment again: it is recorded anew")
        return self._unreachable(message)

    def _unreachable(self, cause: str) -> TunelineError:
        return DependencyError(
            f"the model registry does not answer: {_first_line(cause)}",
            where=redact(self.uri),
            fix="Nothing is lost: when the server is back, run the same command again",
        )


def _digests_in(files: Path) -> dict[str, str]:
    digests: dict[str, str] = json.loads(files.read_text(encoding="utf-8"))
    return digests


def _is_as_listed(package: Path) -> bool:
    digests = _digests_in(package / FILES).items()
    return all((package / name).is_file() and digest_file(package / name) == digest for name, digest in digests)


@contextmanager
def _long_uploads() -> Iterator[None]:
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    os.environ[name] = _UPLOAD_SECONDS
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(message: str) -> str:
    return (redact(message).strip().splitlines() or ["no reason given"])[0][:300]
