"""Ranks on this machine, under torchrun."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

import psutil

from tasks.launch.environment import rank_environment
from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

class LocalLauncher:
    """torchrun with `--standalone`: a free port of its own, no restarts (the pipeline retries from the checkpoint)."""

    def start(self, job: GangJob) -> LocalGang:
        command = [
            *(sys.executable, "-m", "tasks.launch.agent"),
            *("--standalone", f"--nproc-per-node={job.ranks}", "--max-restarts=0"),
            *("-m", job.module, str(job.request)),
        ]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=rank_environment(dict(os.environ), job),
                start_new_session=True,  # Ctrl-C reaches the pipeline only, which then cancels in order
            )
        return LocalGang(process)


class LocalGang:
    """The agent and its ranks."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.poll()

    def cancel(self, grace_seconds: float) -> None:
        """The agent passes SIGTERM on; its ranks run in sessions of their own, so the tree is noted before it shrinks."""
        tree = self._tree()
        if self.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in psutil.wait_procs(tree + self._tree(), timeout=0)[1]:
            log.warning("killing pid %d, which did not end in %.0f s", process.pid, grace_seconds)
            process.kill()
        self._process.wait()

    def _tree(self) -> list[psutil.Process]:
        try:
            agent = psutil.Process(self._process.pid)
            return [*agent.children(recursive=True), agent]
        except psutil.NoSuchProcess:
            return []
