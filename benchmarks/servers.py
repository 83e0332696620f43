"""Real servers that a benchmark needs beside what it measures."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.running import environment

_START_SECONDS = 180


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """A Prefect server as somebody else runs it; the address of its API."""
    home.mkdir()
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with _server(command, home, settings, f"http://127.0.0.1:{port}/api/health"):
        yield f"http://127.0.0.1:{port}/api"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """An MLflow server over `mlflow.db` in a folder; its port."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", "artifacts"),
    ]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with _server(command, folder, settings, f"http://127.0.0.1:{port}/health"):
        yield port


@contextmanager
def _server(command: Sequence[str], folder: Path, settings: Mapping[str, str], url: str) -> Iterator[None]:
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=environment(folder) | dict(settings), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _wait(url, server)
        yield
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own server
            return
        time.sleep(0.3)
    raise TimeoutError(f"{url} did not answer within {_START_SECONDS} s")
