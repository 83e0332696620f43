"""The outermost frame: every failure becomes one line and a stable exit code; the traceback goes to the log file."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tasks.foundation.errors import TunelineError

log = logging.getLogger(__name__)

INTERNAL_ERROR = 1


def run_guarded(command: Callable[[], object]) -> int:
    """Run a command to its exit code. Nothing that it raises reaches the terminal as a traceback."""
    logging.getLogger().addHandler(logging.NullHandler())
    try:
        code = command()
    except TunelineError as error:
        _tell(str(error), error)
        return error.exit_code
    except KeyboardInterrupt as error:
        _tell("interrupted; run it again to go on from the last checkpoint", error)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else INTERNAL_ERROR
    except Exception as error:  # the outermost frame of the program
        _tell(f"internal error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", error)
        return INTERNAL_ERROR
    return code if isinstance(code, int) else 0


def _tell(line: str, error: BaseException) -> None:
    """The line goes to stderr, the traceback to the log; an internal error always has a log to point to."""
    internal = not isinstance(error, TunelineError | KeyboardInterrupt)
    if internal and not _log_files():
        log_to(Path(os.environ.get("TUNELINE_RUNS") or "runs") / "tuneline.log")
    log.error("%s\n%s", line, "".join(traceback.format_exception(error)))
    hint = f" (the log says more: {_log_files()[0]})" if internal else ""
    sys.stderr.write(f"tuneline: {line}{hint}\n")


def _log_files() -> list[str]:
    return [
        handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)
    ]


def _raise_exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def terminating_in_order() -> Iterator[None]:
    """SIGTERM unwinds the stack like an exception, so that ranks are ended and runs are closed."""
    before = signal.signal(signal.SIGTERM, _raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def log_to(path: Path) -> None:
    """Send all log records of this process to a file, appended; the terminal gets none of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.captureWarnings(True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpcore", "alembic", "prefect"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
