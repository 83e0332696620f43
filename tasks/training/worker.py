"""The training worker: `torchrun -m tasks.training.worker request.json`, once per rank.

It imports nouns only and talks to no server, so it runs under torchrun, under a scheduler, by hand or in a notebook.
It ends with exit code 0 and a `result.json`, or with the cause's exit code and a `failure.json`.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.errors import CancelledRunError, ErrorRecord, shortage
from tasks.launch.guard import end_with_parent
from tasks.training.values import TrainRequest

log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Train the cell of a request file; the exit code tells the cause of a failure."""
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    request = TrainRequest.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    failure = request.work / "failure.json"
    failure.unlink(missing_ok=True)
    try:
        from tasks.training.session import train_cell

        train_cell(request)
    except Exception as error:  # the outermost frame of this process: recorded, then told by the exit code
        return _fail(translate(error), failure)
    return 0


def translate(error: Exception) -> Exception:
    """Give the exceptions of libraries and of the system the cause they stand for."""
    return shortage(error) or error


def _fail(error: Exception, failure: Path) -> int:
    record = ErrorRecord.of(error)
    log.error("%s", "".join(traceback.format_exception(error)))
    if int(os.environ.get("RANK", "0")) == 0 or not isinstance(error, CancelledRunError):
        write_durably(failure, record.model_dump_json())
    return record.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
