"""Ranks on this machine, under torchrun."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import psutil

from tasks.foundation.errors import ResourceError
from tasks.launch.environment import rank_environment
from tasks.launch.failure import forget_failed_rank
from tasks.launch.guard import PARENT
from tasks.launch.launchers._base import Launcher
from tasks.launch.ownership import GANG, OWNER, this_process
from tasks.launch.protocol import GangJob
from tasks.launch.reap import carrying, sweep, wait_for_end
from tasks.launch.starting import start_process

log = logging.getLogger(__name__)

_LINGER_SECONDS = 1.0
"""How long ranks may outlive the agent, whose guard looks twice a second, and a killed agent its own end."""


class LocalLauncher(Launcher):
    """`local`: torchrun on this machine.

    With `--standalone`: a free port of its own, and no restarts (the pipeline retries from the checkpoint).
    """

    launcher: Literal["local"] = "local"

    def start(self, job: GangJob) -> LocalGang:
        return start_agent(job, ["--standalone", f"--nproc-per-node={job.ranks}"], {})


def start_agent(job: GangJob, meeting: Sequence[str], variables: dict[str, str]) -> LocalGang:
    """Start the agent of this machine, which starts its ranks.

    Args:
        meeting: torchrun's arguments that say how many there are and where they meet.
        variables: what the environment of the ranks gets beside that of every rank.

    Raises:
        ResourceError: the system refuses another process, or the log cannot be written.
    """
    command = [
        *(sys.executable, "-m", "tasks.launch.agent", *meeting, "--max-restarts=0"),
        *("-m", job.module, str(job.request)),
    ]
    mark = uuid.uuid4().hex
    tokens = {GANG: mark, OWNER: str(this_process()), PARENT: str(os.getpid())}
    try:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        forget_failed_rank(job.request.parent)
        with job.log.open("ab") as output:
            process = start_process(
                lambda: subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=rank_environment(dict(os.environ), job) | variables | tokens,
                    start_new_session=True,  # Ctrl-C reaches the pipeline only, which then cancels in order
                )
            )
    except OSError as error:
        raise ResourceError(f"the ranks cannot be started: {error}", fix="The system says why") from error
    return LocalGang(process, mark)


class LocalGang:
    """The agent and its ranks, each in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self._ending = threading.Lock()

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def status(self) -> str:
        return ""

    def dump_stacks(self) -> None:
        for process in self._members():
            if process.pid != self.pid:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGUSR1)

    def cancel(self, grace_seconds: float) -> None:
        """SIGTERM, once however many ask; those who were stopped are woken, so that they can save."""
        with self._ending:
            if self.poll() is None:
                self._process.send_signal(signal.SIGTERM)  # the agent passes it on
                self._wake()
                self._wait(grace_seconds)
            elif self.poll() == 0:
                return
            self._end_leftovers(grace_seconds)

    def _wake(self) -> None:
        for process in self._members():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("pid %d and its ranks did not end within %.0f s of SIGTERM", self.pid, seconds)

    def _end_leftovers(self, grace_seconds: float) -> None:
        """Kill what is still alive. Ranks whose agent has ended are about to end themselves, so they get a moment."""
        if self.poll() is not None:
            wait_for_end(self._members(), min(_LINGER_SECONDS, grace_seconds))
        sweep(GANG, self._mark)
        try:
            self._process.wait(_LINGER_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning("pid %d got SIGKILL and is still there: the system does not let go of it", self.pid)

    def _members(self) -> list[psutil.Process]:
        """Every living process of the gang, whoever its parent is now."""
        return carrying(GANG, self._mark)
