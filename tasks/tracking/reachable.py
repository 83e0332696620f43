"""Is the tracking server there? For `tuneline doctor` and for steps that cannot wait in a spool."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import sqlite3
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from tasks.foundation.errors import DependencyError
from tasks.tracking.redaction import redact
from tasks.tracking.uri import is_server, sqlite_file

_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def check_reachable(uri: str, seconds: float) -> None:
    """Return when the server answers, or the SQLite file can be opened or made.

    Raises:
        DependencyError: it cannot be reached within `seconds`, or something else answers there.
    """
    try:
        file = sqlite_file(uri)
        if is_server(uri):
            _check_server(urlsplit(uri), seconds)
        elif file is not None:
            _check_file(file, seconds)
        else:
            _check_port(urlsplit(redact(uri)), seconds)  # its password may look like a port
    except (OSError, http.client.HTTPException, sqlite3.Error, ValueError) as error:
        raise DependencyError(
            f"{redact(uri)} does not answer: {redact(str(error)) or type(error).__name__}",
            where="tracking.uri",
            fix="Start the tracking server, or correct tracking.uri",
        ) from None


def _check_server(uri: SplitResult, seconds: float) -> None:
    kind = http.client.HTTPSConnection if uri.scheme == "https" else http.client.HTTPConnection
    with contextlib.closing(kind(uri.hostname or "", uri.port, timeout=seconds)) as connection:
        connection.request("GET", f"{uri.path.rstrip('/')}/version", headers=_authorization(uri))
        answer = connection.getresponse()
        text = answer.read(100).decode("utf-8", "replace")
    if answer.status != 200:
        raise ValueError(f"it says {answer.status} {answer.reason}")
    if not text[:1].isdigit():
        raise ValueError("what answers there is no MLflow server")


def _authorization(uri: SplitResult) -> dict[str, str]:
    """As MLflow's client: user and password first, then a token."""
    user = unquote(uri.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(uri.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    if user:
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {token}"} if token else {}


def _check_file(file: Path, seconds: float) -> None:
    if not file.exists():
        place = next(parent for parent in file.parents if parent.exists())
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{place} cannot be written to")
        return
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=seconds)) as connection:
        connection.execute("PRAGMA schema_version").fetchone()


def _check_port(uri: SplitResult, seconds: float) -> None:
    port = uri.port or _DATABASE_PORTS[uri.scheme.split("+")[0]]
    socket.create_connection((uri.hostname or "localhost", port), timeout=seconds).close()
