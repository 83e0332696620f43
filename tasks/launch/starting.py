"""Every process of a pipeline is started by one thread, which lives as long as the pipeline does.

The kernel takes the end of the thread that started a process for the end of its parent (prctl(2), PR_SET_PDEATHSIG).
Steps run in threads that come and go: a child that one of them had started would be killed at some other step's end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tasks.launch.environment import helper_environment
from tasks.launch.guard import PARENT
from tasks.launch.ownership import OWNER, Owner, claim

T = TypeVar("T")


class _Starter:
    """The thread, and the warden that it starts before anything else."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "process-starter")
        self._warden: subprocess.Popen[bytes] | None = None

    def call(self, start: Callable[[], T]) -> T:
        return self._thread.submit(self._start, start).result()

    def _start(self, start: Callable[[], T]) -> T:
        owner = claim()  # each time: whoever changes the environment for a while may undo it
        if self._warden is None or self._warden.poll() is not None:
            self._warden = _start_warden(owner)
        return start()


def _start_warden(owner: Owner) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.launch.warden"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=helper_environment(dict(os.environ)) | {OWNER: str(owner), PARENT: str(os.getpid())},
        start_new_session=True,  # what ends the pipeline's whole group must not end its warden
    )


_lock = threading.Lock()
_starters: dict[int, _Starter] = {}
"""By process id: a forked process has the object of its parent, but not its thread."""


def start_process(start: Callable[[], T]) -> T:
    """Call `start`, which starts a process, in the thread that lives as long as this process; returns its result.

    The process inherits this one as its owner (`tasks.launch.ownership`), and is swept up after the owner's death.

    Raises:
        Exception: whatever `start` raises.
    """
    with _lock:
        starter = _starters.get(os.getpid()) or _starters.setdefault(os.getpid(), _Starter())
    return starter.call(start)


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held the old one while forking


os.register_at_fork(after_in_child=_after_fork)
