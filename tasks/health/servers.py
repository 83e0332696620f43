"""MLflow and Prefect: can they be reached? Sockets and files only, two seconds each at most."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tasks.foundation.disk import nearest_existing
from tasks.health.check import Check, judged
from tasks.health.machine import writable_check

_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_check(uri: str) -> Check:
    """The tracking server answers, or the database file can be made."""
    scheme, _, rest = uri.partition(":///")
    if scheme.startswith("sqlite") and rest:
        folder = Path(rest.partition("?")[0]).parent
        found = writable_check(folder)
        detail = f"{uri} can be written" if found.ok else f"{uri}: {found.detail}"
        fix = f"Give write permission for {nearest_existing(folder)}, or set tracking.uri"
        return judged("mlflow store", found.ok, detail, fix)
    return _server("mlflow store", uri, "Start the server, or set tracking.uri (default sqlite:///mlflow.db)")


def prefect_check(url: str | None) -> Check:
    """The API answers; without PREFECT_API_URL Prefect starts a server of its own for each run."""
    if not url:
        return Check(name="prefect server", ok=True, detail="PREFECT_API_URL is not set: a temporary server per run")
    return _server("prefect server", url, "Start it with `prefect server start`, or unset PREFECT_API_URL")


def stray_store_check(folder: Path) -> Check:
    """MLflow takes an existing ./mlruns for its store wherever no URI is set, and then refuses it."""
    store = folder / "mlruns"
    stray = store.is_dir() and any(store.iterdir())
    detail = f"{store} would mislead MLflow's own commands" if stray else "no ./mlruns"
    return Check(
        name="mlruns folder", ok=not stray, detail=detail, fix=f"Move {store} away, or set MLFLOW_TRACKING_URI"
    )


def _server(name: str, uri: str, fix: str) -> Check:
    try:
        parts = urlsplit(uri)
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    except ValueError:
        return Check(name=name, ok=False, detail="the address is not a URI", fix=fix)
    shown = _without_secrets(parts)
    if not parts.hostname or not port:
        return Check(name=name, ok=False, detail=f"{shown} names no host and port", fix=fix)
    try:
        with socket.create_connection((parts.hostname, port), timeout=_SECONDS):
            return Check(name=name, ok=True, detail=f"{shown} answers")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        return Check(name=name, ok=False, detail=f"{shown} cannot be reached: {reason}", fix=fix)


def _without_secrets(parts: SplitResult) -> str:
    """User name, password and query are nobody's business on a terminal."""
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"
