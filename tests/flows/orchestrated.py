"""A Prefect server and a process worker that can be stopped and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.schedules import SCHEDULE_TYPES
from prefect.workers.process import ProcessWorker

from flows.reconcile import prefect_client
from tests.ports import free_port
from tests.prefect_server import wait_until_up

ROOT = Path(__file__).resolve().parents[2]
POOL = "ticks"
PATIENCE_SECONDS = 400
"""For four runs on a busy machine."""


class World:
    """A server and a worker that can be stopped and started again, and what the flow wrote down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.file = folder / "ticks.jsonl"
        self.url = f"http://127.0.0.1:{self.port}/api"

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Server and worker for the length of the block."""
        server = self._start("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        try:
            wait_until_up(f"{self.url}/health", server)
            with prefect_client() as client:
                if not client.read_work_pools():
                    template = ProcessWorker.get_default_base_job_template()
                    client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
            worker = self._start("worker", "start", "--pool", POOL, "--type", "process")
            try:
                yield
            finally:
                _end(worker)
        finally:
            _end(server)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        settings = {
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_SERVER_DEPLOYMENT_CONCURRENCY_SLOT_WAIT_SECONDS": "3",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            command = [sys.executable, "-m", "prefect", *arguments]
            return subprocess.Popen(
                command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
            )

    def deploy(self, flow: Flow[..., Any], name: str, schedule: SCHEDULE_TYPES | None = None, **given: Any) -> UUID:
        """A flow with the overlap policy of `nightly` in infra/prefect.yaml, and on a schedule where there is one."""
        with prefect_client() as client:
            return client.create_deployment(
                flow_id=client.create_flow(flow),
                name=name,
                work_pool_name=POOL,
                entrypoint=f"{flow.fn.__module__}.{flow.fn.__name__}",
                parameters=given,
                job_variables={"working_dir": str(self.folder), "env": {"TICKS": str(self.file)}},
                concurrency_limit=1,
                concurrency_options=ConcurrencyOptions(collision_strategy="ENQUEUE"),
                schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)] if schedule else [],
            )

    def stop(self, name: str) -> None:
        with prefect_client() as client:
            client.pause_deployment(client.read_deployment_by_name(f"tick/{name}").id)

    def ran(self, name: str) -> list[dict[str, Any]]:
        """What ran, in the order of its end."""
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        return [ran for ran in map(json.loads, lines) if ran["name"] == name]

    def states(self, name: str, flow: str = "tick") -> list[tuple[str, float]]:
        """Name of the state and time of the tick, of all its runs that were due by now."""
        with prefect_client() as client:
            deployment = client.read_deployment_by_name(f"{flow}/{name}").id
            of = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
            runs = client.read_flow_runs(deployment_filter=of, limit=200)
        due = [run for run in runs if run.expected_start_time and run.expected_start_time.timestamp() <= time.time()]
        return [(run.state_name or "", run.expected_start_time.timestamp()) for run in due if run.expected_start_time]


def worker_world(folder: Path, patch: pytest.MonkeyPatch) -> World:
    """A world whose server the environment names."""
    world = World(folder)
    patch.setenv("PREFECT_HOME", str(folder / "home"))
    patch.setenv("PREFECT_API_URL", world.url)
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])))
    return world


def wait_for(condition: Callable[[], bool]) -> None:
    """Look once a second: the server has better things to do."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(1)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
