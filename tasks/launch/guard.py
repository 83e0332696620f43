"""No process of ours outlives the one that started it."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import psutil

PARENT = "TUNELINE_PARENT_PID"
"""Who started this process, as its parent knows it. A parent that died while we were starting cannot be asked."""

_INTERVAL_SECONDS = 0.5


def end_with_parent(parent: int | None = None) -> None:
    """Watch the parent from a thread; when it is gone, end this process and all that it started (Linux and macOS).

    Args:
        parent: its process id; taken from the environment, or from the system, when absent.
    """
    expected = parent or int(os.environ.get(PARENT) or os.getppid())

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_INTERVAL_SECONDS)
        try:
            _kill_descendants()
        finally:
            os._exit(143)

    threading.Thread(target=watch, name="parent-guard", daemon=True).start()


def _kill_descendants() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
