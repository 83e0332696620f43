"""Whose a process is: its environment names the pipeline's process, in a way that no reused pid can fake."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import psutil

from tasks.foundation.values import Value

OWNER = "TUNELINE_OWNER"
"""In the environment of every process of a run: `<pid>@<start>@<host>` of the pipeline's process."""

GANG = "TUNELINE_GANG"
"""In the environment of every process of a gang: its id."""

_LINUX = sys.platform.startswith("linux")

_STATE, _START_TICKS = 0, 19
"""Places in /proc/<pid>/stat, counted after the name, which may hold anything (proc_pid_stat(5))."""


class Owner(Value):
    """The process that runs a pipeline."""

    pid: int
    start: str
    """When it started, on a clock that nobody can turn: ticks since boot on Linux; the system's own note elsewhere."""
    host: str

    def __str__(self) -> str:
        return f"{self.pid}@{self.start}@{self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it ran on this host, so that it can be judged here."""
        return self.host == socket.gethostname()

    @property
    def lives(self) -> bool:
        """Whether it still runs; a process that got its pid later is another one. Asked on its own host only."""
        return _start_of(self.pid) == self.start


def owner_named(text: str) -> Owner | None:
    """The owner that a process's environment names; None where that is nothing of ours."""
    pid, _, rest = text.partition("@")
    start, _, host = rest.partition("@")
    return Owner(pid=int(pid), start=start, host=host) if pid.isdecimal() and start and host else None


def this_process() -> Owner:
    """The calling process as an owner."""
    return process_of(os.getpid())


def process_of(pid: int) -> Owner:
    """A process of this host as it can be told from a later one with the same pid; a dead one is never found alive."""
    return Owner(pid=pid, start=_start_of(pid) or "", host=socket.gethostname())


def claim() -> Owner:
    """Make the calling process the owner of whatever it starts from now on."""
    owner = this_process()
    os.environ[OWNER] = str(owner)
    return owner


def _start_of(pid: int) -> str | None:
    """None where there is no such process, or only its remains."""
    if _LINUX:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            return None
        fields = stat.rpartition(b")")[2].split()
        return None if fields[_STATE] in (b"Z", b"X") else fields[_START_TICKS].decode()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.create_time())
    except psutil.Error:
        return None
