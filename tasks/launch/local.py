"""Ranks on this machine, under torchrun."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time

import psutil

from tasks.launch.protocol import GangJob

log = logging.getLogger(__name__)

_SECRET_MARKS = ("TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "AUTH_STRING", "CREDENTIAL", "PRIVATE_KEY")


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


def rank_environment(environment: dict[str, str], job: GangJob) -> dict[str, str]:
    """The environment of a rank: without secrets, offline, with its own accelerators and a fixed thread count."""
    kept = {name: value for name, value in environment.items() if not _is_secret(name, value)}
    kept |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    if job.devices:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(job.devices)
    threads = job.threads_per_rank or (None if job.devices else 1)
    if threads:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def _is_secret(name: str, value: str) -> bool:
    upper = name.upper()
    return any(mark in upper for mark in _SECRET_MARKS) or ("://" in value and "@" in value)
