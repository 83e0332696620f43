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

from tasks.launch.guard import PARENT, adopt_orphans, end_with_parent, kill_descendants


def main(arguments: list[str]) -> int:
    """Run the ranks to their end; they in turn do not outlive this process."""
    end_with_parent()
    adopt_orphans()
    faulthandler.register(signal.SIGUSR1)  # whoever asks a whole gang for its stacks asks this process as well
    os.environ[PARENT] = str(os.getpid())
    from tasks.launch.elastic import run_ranks  # torch: seconds, in which the parent may die

    try:
        return run_ranks(arguments)
    finally:
        kill_descendants()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
