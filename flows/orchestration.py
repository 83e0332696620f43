"""Prefect as a guest in our working directory: its home, its log level, and a server of our own where none is named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.foundation.errors import DependencyError

HOST = "127.0.0.1"
PAGE_PORT = 4200
"""Where `tuneline ui` shows Prefect's page unless told otherwise."""
_START_SECONDS = 120
_STOP_SECONDS = 5


def configure_prefect(home: Path) -> None:
    """Defaults for our use of Prefect; what the user has set wins, and PREFECT_API_URL names another server."""
    defaults = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "tasks,flows",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "DO_NOT_TRACK": "1",
    }
    if "PREFECT_API_URL" not in os.environ:
        defaults["PREFECT_HOME"] = str(home.absolute())
        defaults["PREFECT_PROFILES_PATH"] = str(home.absolute() / "profiles.toml")
        defaults["PREFECT_UI_URL"] = f"http://{HOST}:{PAGE_PORT}"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_server(log: Path) -> Iterator[None]:
    """The server that PREFECT_API_URL names, or one of our own for as long as this process lives.

    Prefect would start one by itself, which outlives us when we are killed, and only when the flow begins; ours ends
    with its parent and starts while the rest is being imported.

    Raises:
        DependencyError: our server did not start.
    """
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    port = free_port()
    server = start_server(port, log)
    os.environ["PREFECT_API_URL"] = f"http://{HOST}:{port}/api"
    try:
        yield
    finally:
        send_what_is_left()
        del os.environ["PREFECT_API_URL"]
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def send_what_is_left() -> None:
    """Prefect sends logs and events from threads of its own, and retries for long where no server is left."""
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_STOP_SECONDS)


def start_server(port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the server without waiting for it; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(port)], stdout=output, stderr=subprocess.STDOUT
        )


def wait_for_server() -> None:
    """Return when the server that PREFECT_API_URL names answers.

    Raises:
        DependencyError: it does not.
    """
    url = os.environ["PREFECT_API_URL"]
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310  (the user's own setting)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise DependencyError(f"no Prefect server answers at {url}", where="PREFECT_API_URL", fix="Start it, or unset it")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])
