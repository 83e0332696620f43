"""`tuneline ui`: the two pages over what was recorded here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console

from configs.experiment import Paths
from flows.orchestration import HOST, configure_prefect
from tasks.foundation.errors import ConfigError, DependencyError, ResourceError
from tasks.health.machine import writable_check
from tasks.launch.starting import start_process
from tasks.tracking import TrackingSettings, redact

_START_SECONDS = 120
MLFLOW_SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def serve_pages(mlflow_port: int, prefect_port: int, uri: str | None, console: Console) -> None:
    """Start both servers on the loopback address, say where they are, and stop both on Ctrl-C."""
    check_ports(mlflow_port, prefect_port)
    runs = Paths.from_environment(os.environ).runs.absolute()
    writable = writable_check(runs)
    if not writable.ok:
        raise ResourceError(writable.detail, where="runs folder", fix=writable.fix)
    configure_prefect(runs / "prefect")
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or TrackingSettings().uri
    api = f"http://{HOST}:{prefect_port}/api"
    store = MLFLOW_SETTINGS | {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: `ps` shows those to everybody
    page = {"PREFECT_SERVER_UI_API_URL": api}
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        servers[f"http://{HOST}:{mlflow_port}/health"] = start(
            mlflow_command(mlflow_port, runs), runs / "ui-mlflow.log", store
        )
        servers[f"{api}/health"] = start(prefect_command(prefect_port), runs / "ui-prefect.log", page)
        for url, process in servers.items():
            wait_until_up(url, process)
        console.print(f"MLflow   http://{HOST}:{mlflow_port}    over {redact(uri)}", highlight=False)
        console.print(f"Prefect  http://{HOST}:{prefect_port}    Ctrl-C stops both", highlight=False)
        while all(process.poll() is None for process in servers.values()):
            time.sleep(0.5)
    finally:
        for process in servers.values():
            process.terminate()
        for process in servers.values():
            process.wait()


def mlflow_command(port: int, runs: Path) -> list[str]:
    """MLflow's server over the store that its environment names."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--default-artifact-root", str(runs / "mlflow")),
    ]


def prefect_command(port: int) -> list[str]:
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def start(command: list[str], log: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a server with settings in its environment; its output goes to a file, and it does not outlive us."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return start_process(
            lambda: subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | settings)
        )


def check_ports(mlflow: int, prefect: int) -> None:
    """Refuse what is no port, one port for both, and a port that is taken."""
    for name, port in {"--mlflow-port": mlflow, "--prefect-port": prefect}.items():
        if not 0 < port < 65536:
            raise ConfigError(f"{port} is no port", where=name, allowed="1 to 65535", fix="Choose another")
        check_free(port)
    if mlflow == prefect:
        raise ConfigError(f"both pages would be at port {mlflow}", where="--prefect-port", fix="Choose another")


def check_free(port: int) -> None:
    """Refuse a port that somebody else listens on."""
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:
            raise ResourceError(
                f"port {port} is in use", where="tuneline ui", fix="Choose another with --mlflow-port or --prefect-port"
            )


def wait_until_up(url: str, process: subprocess.Popen[bytes]) -> None:
    """Return when the server answers.

    Raises:
        DependencyError: it ended, or did not answer in time.
    """
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310  (our own loopback address)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise DependencyError(f"the server behind {url} did not start", where="tuneline ui", fix="See runs/ui-*.log")
