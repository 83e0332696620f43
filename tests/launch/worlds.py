"""Gangs in a temporary folder, and ways to see who is alive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.launch import GangJob, Layout

PATIENCE_SECONDS = 120.0
"""Only a limit for what never comes; nothing is expected to take so long."""


def job_in(folder: Path, ranks: int = 1, devices: tuple[str, ...] = (), **asked: Any) -> GangJob:
    """A job whose ranks do what is asked; they put their files into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    request = folder / "request.json"
    request.write_text(json.dumps(asked))
    return GangJob(
        module="tests.launch.gang_module",
        request=request,
        layout=Layout(ranks_per_node=ranks),
        log=folder / "log.txt",
        devices=devices,
    )


def wait_until(
    condition: Callable[[], bool], patience_seconds: float = PATIENCE_SECONDS, every_seconds: float = 0.02
) -> None:
    end = time.monotonic() + patience_seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(every_seconds)


def said(folder: Path, ranks: int = 1) -> list[dict[str, Any]]:
    """What all ranks said when they were there; waits for the last one."""
    files = [folder / f"here{rank}" for rank in range(ranks)]
    wait_until(lambda: all(file.exists() for file in files))
    return [json.loads(file.read_text()) for file in files]


def pids_of(folder: Path, ranks: int = 1) -> list[int]:
    """The ranks and the processes that they started."""
    return [pid for rank in said(folder, ranks) for pid in rank["pids"]]


@contextmanager
def killed_after(*arguments: str) -> Iterator[None]:
    """A Python process that is killed when the block ends, however it ends."""
    process = subprocess.Popen([sys.executable, *arguments])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def out_of_reach(pid: int) -> Iterator[None]:
    """A process that not even SIGKILL ends before the block does, like one that waits in a driver."""
    group = Path(f"/sys/fs/cgroup/freezer/tuneline-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(pid))
        (group / "freezer.state").write_text("FROZEN")
    except OSError as error:
        pytest.skip(f"no process can be frozen here: {error}")
    try:
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def alive(pids: Iterable[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
