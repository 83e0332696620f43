"""Ranks on this machine, under torchrun."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from typing import Literal

import psutil

from tasks.foundation.errors import ResourceError
from tasks.launch.environment import rank_environment
from tasks.launch.guard import PARENT
from tasks.launch.launchers._base import Launcher
from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

_MARK = "TUNELINE_GANG"
"""In the environment of every process of a gang: by it those are found whose parent is gone."""

_LINGER_SECONDS = 2.0
"""How long ranks may outlive the agent: their guard looks twice a second."""

_KILL_ROUNDS = 5


class LocalLauncher(Launcher):
    """`local`: torchrun on this machine.

    With `--standalone`: a free port of its own, and no restarts (the pipeline retries from the checkpoint).
    """

    launcher: Literal["local"] = "local"

    def start(self, job: GangJob) -> LocalGang:
        """Start the agent, which starts the ranks.

        Raises:
            ResourceError: the system refuses another process, or the log cannot be written.
        """
        command = [
            *(sys.executable, "-m", "tasks.launch.agent"),
            *("--standalone", f"--nproc-per-node={job.ranks}", "--max-restarts=0"),
            *("-m", job.module, str(job.request)),
        ]
        mark = uuid.uuid4().hex
        try:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=rank_environment(dict(os.environ), job) | {_MARK: mark, PARENT: str(os.getpid())},
                    start_new_session=True,  # Ctrl-C reaches the pipeline only, which then cancels in order
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
        """SIGTERM, once however many ask: further ones would break off the agent's own waiting for its ranks."""
        with self._ending:
            if self.poll() is None:
                self._process.send_signal(signal.SIGTERM)  # the agent passes it on
                self._wait(grace_seconds)
            elif self.poll() == 0:
                return
            self._end_leftovers(grace_seconds)

    def _wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            log.warning("pid %d and its ranks did not end within %.0f s of SIGTERM", self.pid, seconds)

    def _end_leftovers(self, grace_seconds: float) -> None:
        """Kill what is still alive. Ranks whose agent has ended are about to end themselves, so they get a moment."""
        if self.poll() is not None:
            psutil.wait_procs(self._members(), timeout=min(_LINGER_SECONDS, grace_seconds))
        for _ in range(_KILL_ROUNDS):
            if not (members := self._members()):
                break
            for process in members:
                log.warning("killing pid %d", process.pid)
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(members, timeout=_LINGER_SECONDS)
        self._process.wait()

    def _members(self) -> list[psutil.Process]:
        """Every living process of the gang, whoever its parent is now."""
        return [process for process in psutil.process_iter() if self._is_member(process)]

    def _is_member(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError):  # it has ended, or belongs to somebody else
            return False
