"""Starts something and is then killed by a test: `python -m tests.launch.starter gang|children <folder>`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tasks.launch.children import Children
from tasks.launch.launchers.local import LocalLauncher
from tests.launch.functions import say_and_sleep
from tests.launch.worlds import job_in

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "gang":
        LocalLauncher().start(job_in(folder, ranks=2, action="ignore SIGTERM"))
        time.sleep(600)
    else:
        Children(1, folder / "children.log").run(say_and_sleep, folder / "here0")
