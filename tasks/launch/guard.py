"""No process of ours outlives the one that started it."""

from __future__ import annotations

import os
import threading
import time

PARENT = "TUNELINE_PARENT_PID"
"""Who started this process, as its parent knows it. A parent that died while we were starting cannot be asked."""

_INTERVAL_SECONDS = 0.5


def end_with_parent(parent: int | None = None) -> None:
    """Watch the parent from a thread and end this process at once when it is gone (works on Linux and macOS).

    Args:
        parent: its process id; taken from the environment, or from the system, when absent.
    """
    expected = parent or int(os.environ.get(PARENT) or os.getppid())

    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_INTERVAL_SECONDS)
        os._exit(143)

    threading.Thread(target=watch, name="parent-guard", daemon=True).start()
