"""Outlives a pipeline for a moment, to kill what is left of it: `python -m tasks.launch.warden`.

A pipeline that is killed cannot clean up, and the kernel kills only processes that have asked for it: not what a rank
has started. This process watches the pipeline from outside and sweeps by its token. It needs no cleaning up itself.
"""

from __future__ import annotations

import os
import time

from tasks.launch.guard import PARENT
from tasks.launch.ownership import OWNER
from tasks.launch.reap import sweep

_INTERVAL_SECONDS = 0.2


def main() -> None:
    """Wait for the end of the parent, then kill everything that carries the token which this process has."""
    parent, token = int(os.environ[PARENT]), os.environ[OWNER]
    while os.getppid() == parent:
        time.sleep(_INTERVAL_SECONDS)
    sweep(OWNER, token)


if __name__ == "__main__":
    main()
