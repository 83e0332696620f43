"""The training worker: `torchrun -m tasks.training.worker request.json`, once per rank.

It imports nouns only and talks to no server, so it runs under torchrun, under a scheduler, by hand or in a notebook.
It ends with exit code 0 and a `result.json`, or with the cause's exit code and a `failure.json`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from tasks.foundation.errors import CancelledRunError, ErrorRecord, IntegrityError
from tasks.launch.guard import end_with_parent
from tasks.training.engines import prepare_environment
from tasks.training.failing import FAILURE, lost_peer, write_failure
from tasks.training.fence import Fence
from tasks.training.foresight import full_disk
from tasks.training.memory import out_of_memory
from tasks.training.pulse import answer_with_stacks, say_ended
from tasks.training.values import TrainRequest

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Train the cell of a request file; the exit code tells the cause of a failure."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, _end_at_once)  # until training begins, from where on it saves first
    path, rank = Path(arguments[0]), int(os.environ.get("RANK", "0"))
    work, request, code = path.absolute().parent, None, 0
    try:
        request = _read(path)
        work = request.work
        prepare_environment(request.cell.layout)
        answer_with_stacks(work, rank)
        if rank == 0:
            _begin(request)
        from tasks.training.session import train_cell

        train_cell(request)
        say_ended(work, rank)
    except Exception as error:  # the outermost frame of this process: recorded, then told by the exit code
        code = _fail(error, request, work)
    _let_go_of_output()
    return code


def _read(path: Path) -> TrainRequest:
    """The request, which lies on a folder that all nodes share.

    Raises:
        IntegrityError: this node cannot read it, or it holds something else.
    """
    where = f"{path} on {socket.gethostname()}"
    try:
        return TrainRequest.model_validate_json(path.read_bytes())
    except OSError as error:
        fix = "Every node must see the runs folder under the same path: mount it there, or set TUNELINE_RUNS"
        raise IntegrityError(f"the request cannot be read: {error.strerror}", where=where, fix=fix) from error
    except ValidationError as error:
        what = f"this is no request of this version of tuneline ({error.error_count()} errors, see the log)"
        fix = "Install the same tuneline on every node, and run it again"
        raise IntegrityError(what, where=where, fix=fix) from error


def _end_at_once(number: int, frame: FrameType | None) -> None:
    raise CancelledRunError("terminated before the first step", fix="Run it again")


def _begin(request: TrainRequest) -> None:
    fence = Fence(request.work, request.attempt)
    fence.take_up()
    if fence.restarted or not request.attempt:  # otherwise the pipeline has done it, before any rank could fail
        (request.work / FAILURE).unlink(missing_ok=True)


def _fail(error: Exception, request: TrainRequest | None, work: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a peer's end must not break off what this rank has to say
    log.error("%s", "".join(traceback.format_exception(error)))
    short = (out_of_memory(error, request) or full_disk(error, request)) if request else None
    record = ErrorRecord.of(short or lost_peer(error) or error)
    try:
        write_failure(work, record)
    except OSError as unwritable:  # a full disk: the exit code says it alone
        log.error("the cause cannot be recorded: %s", unwritable)
    return record.exit_code


def _let_go_of_output() -> None:
    """A log that cannot be written does not decide the exit code: Python itself would end with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
