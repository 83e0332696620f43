"""torchrun as a child that does not outlive its parent: `python -m tasks.launch.agent <torchrun arguments>`.

It ends with the exit code of the first rank that failed (128 + the signal's number, where a signal ended that rank),
which torchrun itself would hide behind a 1.
"""

from __future__ import annotations

import os
import sys

from tasks.launch.guard import PARENT, end_with_parent


def main(arguments: list[str]) -> int:
    """Run the ranks to their end; they in turn do not outlive this process."""
    end_with_parent()
    os.environ[PARENT] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    try:
        torchrun(arguments)
    except ChildFailedError as error:
        sys.stderr.write(f"{error}\n")
        code = int(error.get_first_failure()[1].exitcode)
        return code if code >= 0 else 128 - code
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
