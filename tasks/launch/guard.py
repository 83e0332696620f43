"""No process of ours outlives the one that started it."""

from __future__ import annotations

import os
import threading
import time

_INTERVAL_SECONDS = 0.5


def end_with_parent() -> None:
    """Watch the parent from a thread and end this process at once when it is gone (works on Linux and macOS)."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_INTERVAL_SECONDS)
        os._exit(143)

    threading.Thread(target=watch, name="parent-guard", daemon=True).start()
