"""The outermost frame: every failure becomes one line and a stable exit code; the traceback goes to the log file."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil
from rich.console import Console

from tasks.foundation.errors import (
    FULL_DISK,
    CancelledRunError,
    InterruptedRunError,
    ResourceError,
    TunelineError,
    shortage,
)
from tasks.launch.guard import cancel_with_parent, kill_descendants

log = logging.getLogger(__name__)

INTERNAL_ERROR = 1
_GO_ON = "What is done is kept, checkpoints too; run it again to go on from there"
_HURRY_SECONDS = 4.0
"""How long a flow without a worker gets to save and to close its runs."""
_TIDYING_SECONDS = 10.0
"""How long libraries get to tidy up after everything of ours is closed."""
_FULL_BYTES = 64 << 20
"""A disk with less room is the one that was full: what could not be finished is deleted by now."""
_TIDYING = "ignore::UserWarning:multiprocessing.resource_tracker"


def run_guarded(command: Callable[[], object]) -> int:
    """Run a command to its exit code. Nothing that it raises reaches the terminal as a traceback."""
    _keep_off_the_terminal()
    try:
        with _terminating_in_order():
            code = command()
            sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else INTERNAL_ERROR
    except BaseException as error:  # the outermost frame of the program
        return _fail(error)
    return code if isinstance(code, int) else 0


def leave(code: int) -> NoReturn:
    """End at once. Everything of ours is closed by now; what libraries left running must not hold up the end.

    Prefect's threads would try for minutes to bring their events to a server that is gone, and a child that hangs in a
    driver would be waited for without end.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # it is ending; another Ctrl-C would only break that off
        signal.signal(number, signal.SIG_IGN)
    patience = threading.Timer(_TIDYING_SECONDS, os._exit, [code])
    patience.daemon = True
    patience.start()
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def give_up(error: BaseException) -> NoReturn:
    """End this process and all that it started, from any thread, with the one line and the exit code of an error."""
    stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())
    log.error("some thread does not end; the stacks of all:\n%s", stacks)
    with suppress(OSError):
        Console().show_cursor()
    code = _fail(error)
    with suppress(psutil.Error):
        kill_descendants()
    os._exit(code)


class Terminated(BaseException):
    """SIGTERM: it unwinds the stack like Ctrl-C, so that ranks are ended and runs are closed."""


def _fail(error: BaseException) -> int:
    """One line to stderr, the traceback to the log; an internal error always has a log to point to."""
    known = _cause(error)
    if known is None and not _log_files():
        with suppress(ResourceError):
            log_to(Path(os.environ.get("TUNELINE_RUNS") or "runs") / "tuneline.log")
    said = str(known) if known else f"internal error: {type(error).__name__}: {''.join(str(error).splitlines()[:1])}"
    log.error("%s\n%s", said, "".join(traceback.format_exception(error)))
    hint = f" (the log says more: {_log_files()[0]})" if known is None and _log_files() else ""
    with suppress(OSError):  # the terminal is gone
        sys.stderr.write(f"tuneline: {said}{hint}\n")
        sys.stderr.flush()
    return known.exit_code if known else INTERNAL_ERROR


def _cause(error: BaseException) -> TunelineError | None:
    """What a person can do something about; None for an error of our own."""
    if isinstance(error, KeyboardInterrupt):
        return InterruptedRunError("interrupted (SIGINT)", fix=_GO_ON)
    if isinstance(error, Terminated):
        return CancelledRunError("terminated (SIGTERM)", fix=_GO_ON)
    return error if isinstance(error, TunelineError) else _placed(shortage(error))


def _placed(short: ResourceError | None) -> ResourceError | None:
    """With the disk that is full where the error does not say which, as when a file that is open cannot grow."""
    if short is None or short.where or short.what != FULL_DISK:
        return short
    places = [Path(os.environ.get("TUNELINE_RUNS") or "runs"), Path(), Path(tempfile.gettempdir())]
    free: dict[Path, int] = {}
    for place in places:
        with suppress(OSError):
            free[place.absolute()] = shutil.disk_usage(place).free
    full = [str(place) for place in sorted(free, key=lambda place: free[place]) if free[place] < _FULL_BYTES]
    return ResourceError(short.what, where=full[0], fix=short.fix) if full else short


def _log_files() -> list[str]:
    return [
        handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)
    ]


def _keep_off_the_terminal() -> None:
    """No library speaks past the log: no failing log handler (the disk is full), and no thread that breaks off.

    Nor does the process that cleans up after our children when they were killed.
    """
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), _TIDYING]))
    logging.getLogger().addHandler(logging.NullHandler())
    logging.raiseExceptions = False
    threading.excepthook = lambda seen: log.error("a thread broke off: %r", seen.exc_value, exc_info=seen.exc_value)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _hang_up(number: int, frame: FrameType | None) -> None:
    """The terminal is gone. It ends like SIGTERM, by whoever handles that one by now: Prefect, while a flow runs."""
    log.warning("the terminal was closed (SIGHUP)")
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _terminating_in_order() -> Iterator[None]:
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _raise_terminated)}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it is to outlive the terminal
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, _hang_up)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_worker() -> None:
    """A flow that a Prefect worker has started ends when that worker dies, as if it were cancelled, but faster.

    Its files are its user's only, as they are where the command line has started it.
    """
    if "PREFECT__FLOW_RUN_ID" in os.environ:  # Prefect sets it for processes that run one flow run
        os.umask(0o077)
        logging.getLogger("prefect.flow_runs").addFilter(_says_more_than_the_state)
        cancel_with_parent(_HURRY_SECONDS)


def _says_more_than_the_state(record: logging.LogRecord) -> bool:
    """Prefect puts a traceback behind every failure; one that a person can mend stands in the state, in one line."""
    return not (record.exc_info and isinstance(record.exc_info[1], TunelineError))


def log_to(path: Path) -> None:
    """Send all log records of this process to a file, appended; the terminal gets none of them.

    Those that pass on what another process writes into a log of its own (`in_own_file`) need not stand here as well.

    Raises:
        ResourceError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        fix = "Make room or allow it, or set TUNELINE_RUNS to another folder"
        raise ResourceError(f"the log cannot be written: {error.strerror}", where=str(path), fix=fix) from error
    logging.captureWarnings(True)
    handler.addFilter(lambda record: not getattr(record, "in_own_file", False))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for chatty in ("httpx", "httpcore", "alembic", "prefect"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
