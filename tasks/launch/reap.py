"""Processes of a run whose pipeline is gone: found by their token, ended with a ladder."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.foundation.values import Value
from tasks.launch.ownership import GANG, OWNER, Owner, owner_named

log = logging.getLogger(__name__)

_KILL_SECONDS = 2.0
"""How long the kernel may take to clear a killed process away."""

_LOOK_SECONDS = 0.02

_ROUNDS = 5
"""A process that is being killed may just have started another one."""


class Orphan(Value):
    """A process whose owner is dead."""

    pid: int
    since: float
    """When it started, in seconds since 1970."""
    command: str
    owner: Owner
    gang: str = ""
    """The gang that it belongs to; empty for other helpers of the pipeline."""
    folder: str = ""
    """Its working directory, which is that of its pipeline."""

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"pid {self.pid} since {since}, of pid {self.owner.pid} in {self.folder}: {self.command}"


def orphans() -> list[Orphan]:
    """Every orphan of this user on this machine, by pid.

    Those are left out whose owner lives, is of another host (a scheduler has brought the process here), or of another
    user; so are processes of another pid namespace, in which the owner's pid names somebody else.
    """
    return [orphan for _, orphan in _found()]


def reap(grace_seconds: float, folder: Path | None = None) -> list[Orphan]:
    """End orphans: SIGTERM, so that ranks can save, then SIGKILL. Returns those that were there.

    Args:
        folder: only those with this working directory; all of them when absent.
    """
    found = [pair for pair in _found() if folder is None or pair[1].folder == str(folder)]
    end([process for process, _ in found], grace_seconds)
    return [orphan for _, orphan in found]


def make_way(grace_seconds: float) -> None:
    """End the orphans of earlier pipelines in this working directory; speak of others, which may be wanted."""
    for orphan in reap(grace_seconds, Path.cwd()):
        log.warning("ended what an earlier run had left: %s", orphan)
    for orphan in orphans():
        log.warning("left behind by a run that is dead; `tuneline reap` ends it: %s", orphan)


def end(processes: Sequence[psutil.Process], grace_seconds: float) -> None:
    """SIGTERM, wait, SIGKILL. A stopped process is woken: it could not hear the first one."""
    if grace_seconds > 0:
        for process in processes:
            with suppress(psutil.Error):
                process.terminate()
                process.resume()
        processes = wait_for_end(processes, grace_seconds)
    for process in processes:
        log.warning("killing pid %d", process.pid)
        with suppress(psutil.Error):
            process.kill()
    wait_for_end(processes, _KILL_SECONDS)


def wait_for_end(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until they have ended; returns those that have not.

    The exit codes of children stay with whoever waits for them: psutil's own waiting would take them away.
    """
    deadline = time.monotonic() + seconds
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sweep(name: str, token: str) -> None:
    """Kill whatever carries a token, until nothing does."""
    for _ in range(_ROUNDS):
        found = carrying(name, token)
        if not found:
            return
        end(found, 0)
        time.sleep(0.05)


def carrying(name: str, token: str) -> list[psutil.Process]:
    """Every living process whose environment holds this token, whoever its parent is now; not the caller."""
    return [process for process, environment in _ours() if environment.get(name) == token]


def _found() -> list[tuple[psutil.Process, Orphan]]:
    found = []
    for process, environment in _ours():
        owner = owner_named(environment.get(OWNER, ""))
        if owner is None or not owner.is_here or owner.lives:
            continue
        with suppress(psutil.Error):
            command, since = " ".join(process.cmdline()), process.create_time()
            gang = environment.get(GANG, "")
            orphan = Orphan(pid=process.pid, since=since, command=command, owner=owner, gang=gang, folder=process.cwd())
            found.append((process, orphan))
    return sorted(found, key=lambda pair: pair[1].pid)


def _ours() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Living processes of this user and pid namespace, with their environments."""
    namespace = _namespace(os.getpid())
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            environment = process.environ()
            if process.status() == psutil.STATUS_ZOMBIE or _namespace(process.pid) != namespace:
                continue
        except (psutil.Error, OSError):  # it has ended
            continue
        yield process, environment


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115  (it is no path)
    except OSError:  # no Linux, or it has ended
        return ""
