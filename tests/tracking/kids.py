"""What the tests run in processes of their own, mostly to have them killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tasks.tracking import Run, RunRef, TrackingSettings, create_run
from tasks.tracking.environment import set_mlflow_defaults
from tasks.tracking.shipper import Shipper

PRELOAD = ["mlflow.store.tracking.sqlalchemy_store", "tasks.tracking.mlflow_sink"]


def start(target: Callable[..., None], *args: object) -> ForkServerProcess:
    """A process that starts in milliseconds: a server process has imported MLflow once and forks."""
    set_mlflow_defaults()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=target, args=args, daemon=True)  # none outlives a test that fails
    process.start()
    return process


def write_metrics(ref: RunRef, name: str, count: int) -> None:
    for step in range(count):
        Run(ref).log_metrics({name: step * 0.5}, step=step)


def create_and_wait(spool: Path, told: Path) -> None:
    """Owns a run until it is killed."""
    ref = create_run(spool, name="orphan", experiment="e")
    Run(ref).log_metrics({"loss": 1.0})
    told.with_suffix(".part").write_text(ref.model_dump_json())
    told.with_suffix(".part").replace(told)
    time.sleep(600)


def create_fork_and_wait(spool: Path, told: Path) -> None:
    """As above, and leaves a forked child behind that outlives it."""
    ref = create_run(spool, name="orphan", experiment="e")
    child = os.fork()
    if child == 0:
        time.sleep(600)
    told.with_suffix(".part").write_text(f"{child}\n{ref.model_dump_json()}")
    told.with_suffix(".part").replace(told)
    time.sleep(600)


class DyingSink:
    """Any sink, until the n-th moment just before or just after a call, when its process is killed."""

    def __init__(self, sink: Any, moments: int) -> None:
        self._sink = sink
        self._moments = moments

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self._moment()
            answer = getattr(self._sink, name)(*args)
            self._moment()
            return answer

        return call

    def _moment(self) -> None:
        self._moments -= 1
        if self._moments == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def ship_and_die(uri: str, spool: Path, moments: int) -> None:
    """Ships until everything is sent, or the n-th moment around a call."""
    from tasks.tracking.mlflow_sink import MlflowSink

    sink = DyingSink(MlflowSink(uri, spool.parent / "artifacts"), moments)
    settings = TrackingSettings(uri=uri, flush_seconds=120)
    with Shipper(settings, spool, spool.parent / "artifacts", sink=sink):
        pass
