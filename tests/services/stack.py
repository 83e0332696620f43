"""The real stack for tests: Postgres, MLflow and Prefect with passwords, and a worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.launch.reap import carrying, end
from tasks.services.catalogue import SECRETS, Service
from tasks.services.layout import Stack, find_stack
from tasks.services.processes import TOKEN
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
_OF_SERVERS = ("MLFLOW_", "PREFECT_", "TUNELINE_")


@dataclass(frozen=True)
class RunningStack:
    """A stack in a folder of its own, and `tuneline` there."""

    folder: Path
    """The working directory of `tuneline` and of the worker."""

    @property
    def stack(self) -> Stack:
        found = find_stack(self.folder / "stack")
        assert found is not None
        return found

    @property
    def secrets(self) -> dict[str, str]:
        return {name: (self.stack.secrets / name).read_text().strip() for name in SECRETS}

    def service(self, name: str) -> Service:
        return next(service for service in self.stack.services if service.name == name)

    def pid(self, name: str) -> int:
        return int(json.loads(self.stack.record(name).read_text())["pid"])

    def tuneline(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flows", *arguments],
            cwd=self.folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def client_environment(self) -> dict[str, str]:
        """What `source $(tuneline stack env)` sets, on top of a clean environment."""
        read = f"set -a; . {self.stack.environment_file}; exec env -0"
        said = subprocess.run(["sh", "-c", read], env=clean_environment(), capture_output=True, text=True, check=True)
        return dict(line.split("=", 1) for line in said.stdout.split("\0") if line)

    def processes(self) -> list[str]:
        """The command of whatever runs for it, however deep."""
        mine = [found for name in SERVICES for found in carrying(TOKEN, self.stack.token(name))]
        return [" ".join(found.cmdline()) for found in mine]


Furnish = Callable[..., RunningStack]
"""Gives the worker's folder an experiment, by name and what it says otherwise than `toy.yaml`."""

SERVICES = ("postgres", "mlflow", "prefect", "worker")


@contextmanager
def running_stack() -> Iterator[RunningStack]:
    """Up, on ports of its own. Where Postgres is another user, its folder lies where that user can go."""
    folder = Path(tempfile.mkdtemp(prefix="tuneline-stack-"))
    folder.chmod(0o711)
    running = RunningStack(folder)
    try:
        ports = [part for name in SERVICES[:3] for part in (f"--{name}-port", str(free_port()))]
        up = running.tuneline("stack", "up", *ports)
        assert up.returncode == 0, up.stderr
        yield running
    finally:
        running.tuneline("stack", "down")
        for name in SERVICES:
            end(carrying(TOKEN, running.stack.token(name)), 0)
        shutil.rmtree(folder)


def processes_of(flow_run: str) -> list[str]:
    """The commands of all that works for a flow run, whoever has started it."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        mine = (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == flow_run
        if mine and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def clean_environment() -> dict[str, str]:
    """Ours, but without what names servers or folders."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_SERVERS)}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
