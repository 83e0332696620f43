"""torchrun's own code, asked two things that it does not say by itself: which rank failed first, and how."""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from tasks.launch.deaths import Deaths
from tasks.launch.failure import FailedRank, write_failed_rank


def run_ranks(arguments: list[str]) -> int:
    """Run torchrun with its arguments, the last of which is the request's path; returns the gang's exit code."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _Ending())
    deaths = Deaths()
    try:
        torchrun(["--signals-to-handle=SIGQUIT", *arguments])  # the others are ours
    except ChildFailedError as error:
        sys.stderr.write(f"{error}\n")
        return _record(first_failure(error, deaths), Path(arguments[-1]).absolute().parent)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


class _Ending:
    """The ranks get SIGTERM once and are waited for: another exception would break that off, and their saving."""

    begun = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _Ending.begun:
            _Ending.begun = True
            raise SignalException(f"got {signal.Signals(number).name}", signal.SIGTERM)


def first_failure(error: ChildFailedError, deaths: Deaths) -> FailedRank:
    """The rank that ended first. torchrun's own time stamps are of whole seconds, in which its peers end as well."""

    def order(rank: int) -> tuple[float, bool, int]:
        one = error.failures[rank]
        was_killed = one.exitcode < 0 and one.exitcode != -signal.SIGTERM
        return deaths.place(one.pid), not was_killed, one.timestamp

    rank = min(error.failures, key=order)
    seen = error.failures[rank]
    return FailedRank(rank=rank, host=socket.gethostname(), pid=seen.pid, exit_code=int(seen.exitcode), at=time.time())


def _record(failed: FailedRank, folder: Path) -> int:
    sys.stderr.write(f"{failed} first\n")
    try:
        write_failed_rank(folder, failed)
    except Exception as unwritable:  # a full disk must not take the exit code with it
        sys.stderr.write(f"this cannot be recorded: {unwritable}\n")
    return failed.exit_code if failed.exit_code >= 0 else 128 - failed.exit_code
