"""torchrun as a child that does not outlive its parent: `python -m tasks.launch.agent <torchrun arguments>`.

It ends with the exit code of the first rank that failed (128 + the signal's number, where a signal ended that rank),
which torchrun itself would hide behind a 1, and leaves `failed_rank.json` beside the request. Nothing that a rank has
started is alive afterwards.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from contextlib import suppress

import psutil

from tasks.launch.guard import PARENT, adopt_orphans, end_with_parent, kill_descendants


def main(arguments: list[str]) -> int:
    """Run the ranks to their end; they in turn do not outlive this process."""
    end_with_parent()
    adopt_orphans()
    signal.signal(signal.SIGUSR1, lambda *_: threading.Thread(target=_give_stacks, daemon=True).start())
    os.environ[PARENT] = str(os.getpid())
    from tasks.launch.elastic import run_ranks  # torch: seconds, in which the parent may die

    try:
        return run_ranks(arguments)
    finally:
        kill_descendants()


def _give_stacks() -> None:
    """Whoever asks a gang for its stacks may reach this process only: Slurm signals nothing but its own children.

    In a thread of its own: what SIGTERM raises in the main one must not get lost in a library that this calls.
    """
    faulthandler.dump_traceback()
    for rank in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            rank.send_signal(signal.SIGUSR1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
