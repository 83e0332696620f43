"""No process of ours outlives the one that started it.

Three lines, each for what the one before cannot do: the kernel kills a child at the death of its parent (Linux; it
reaches stopped processes and those that hang in a driver), a thread of the child looks for its parent (everywhere), and
the warden of the pipeline (`tasks.launch.warden`) sweeps up what neither of them reached.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

PARENT = "TUNELINE_PARENT_PID"
"""Who started this process, as its parent knows it. A parent that died while we were starting cannot be asked."""

_INTERVAL_SECONDS = 0.5
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def end_with_parent(parent: int | None = None) -> None:
    """See to it that this process, and all that it started, end when its parent does.

    The kernel counts the end of the thread that started us as the end of our parent, so it is asked only where that
    parent is one of ours, which starts processes from a thread that lives as long as itself (`tasks.launch.starting`).

    Args:
        parent: its process id; taken from the environment, or from the system, when absent.
    """
    ours = parent or int(os.environ.get(PARENT) or 0)
    if ours:
        _control_process(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _when_gone(ours or os.getppid(), _end)


def cancel_with_parent(seconds: float) -> None:
    """When the parent is gone, end this process in order: SIGTERM to itself, and the hard end after some seconds."""

    def cancel() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        _end()

    _when_gone(os.getppid(), cancel)


def _when_gone(parent: int, act: Callable[[], None]) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_INTERVAL_SECONDS)
        act()

    threading.Thread(target=watch, name="parent-guard", daemon=True).start()


def _end() -> None:
    try:
        kill_descendants()
    finally:
        os._exit(143)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies, so that `kill_descendants` finds it (Linux)."""
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants() -> None:
    """Kill all that this process started, and what those started."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _control_process(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
