"""Child processes for merging and evaluating: they import torch once, serve many cells, and take their memory with them."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

from tasks.foundation.errors import ErrorRecord, ResourceError, TunelineError
from tasks.launch.environment import QUIET
from tasks.launch.guard import end_with_parent

P = ParamSpec("P")
T = TypeVar("T")

OnProgress = Callable[[int, int, float | None], None]
"""Called with units done, units in all, and a loss where there is one."""

_LOOK_SECONDS = 0.3


class Children:
    """A pool of spawned processes that is replaced when one of them was killed."""

    def __init__(self, count: int, log: Path) -> None:
        """`log`: file that gets whatever the children print, appended."""
        self._count = count
        self._log = log
        self._busy = 0
        self._lock = threading.Lock()
        self._pool = self._new_pool()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function in a child and wait.

        Raises:
            TunelineError: as the function raised it, or ResourceError where the child was killed.
        """
        return self._result(function.__name__, lambda pool: pool.submit(_guarded, function, args, kwargs), lambda: None)

    def run_reporting(self, function: Callable[..., T], on_progress: OnProgress, *args: object) -> T:
        """Like `run`; the function gets one more argument, `report(done, total, loss)`, which reaches `on_progress`."""
        with tempfile.TemporaryDirectory(prefix="tuneline-") as folder:
            path = Path(folder) / "progress.json"

            def look() -> None:
                if path.exists():
                    on_progress(*json.loads(path.read_text(encoding="utf-8")))

            return self._result(
                function.__name__, lambda pool: pool.submit(_guarded, _reporting, (function, args, path), {}), look
            )

    def _result(
        self, name: str, submit: Callable[[ProcessPoolExecutor], Future[T | ErrorRecord]], look: Callable[[], None]
    ) -> T:
        pool = self._pool
        with self._lock:
            self._busy += 1
        try:
            future = submit(pool)
            while not wait([future], timeout=_LOOK_SECONDS).done:
                look()
            outcome = future.result()
        except BrokenProcessPool:
            self._replace(pool)
            raise ResourceError(
                f"the process that ran {name} was killed, most likely for lack of memory",
                fix="Lower evaluation.batch_size or distributed.parallel_cells",
            ) from None
        finally:
            with self._lock:
                self._busy -= 1
        if isinstance(outcome, ErrorRecord):
            raise outcome.error()
        return outcome

    def close(self) -> None:
        """End all children: idle ones in order, busy ones (the flow was cancelled) at once."""
        if self._busy:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, multiprocessing.get_context("spawn"), initializer=_start_child, initargs=(self._log,))

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken:
                self._pool = self._new_pool()


def _start_child(log: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    os.environ |= QUIET
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


def _reporting(function: Callable[..., T], args: tuple[object, ...], path: Path) -> T:
    def report(done: int, total: int, loss: float | None = None) -> None:
        staged = path.with_suffix(".staged")
        staged.write_text(json.dumps([done, total, loss]), encoding="utf-8")
        staged.replace(path)

    return function(*args, report)


def _guarded(function: Callable[..., T], args: tuple[object, ...], kwargs: dict[str, object]) -> T | ErrorRecord:
    try:
        return function(*args, **kwargs)
    except TunelineError as error:
        return ErrorRecord.of(error)


_current: ContextVar[Children] = ContextVar("tasks.launch.children")


@contextmanager
def children(count: int, log: Path) -> Iterator[Children]:
    """A pool for the length of a flow; its tasks' threads inherit it through their context."""
    pool = Children(count, log)
    token = _current.set(pool)
    try:
        yield pool
    finally:
        _current.reset(token)
        pool.close()


def run_in_child(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in the current flow's pool, or right here where there is none (a task called by itself)."""
    pool = _current.get(None)
    return pool.run(function, *args, **kwargs) if pool else function(*args, **kwargs)


def run_in_child_reporting(function: Callable[..., T], on_progress: OnProgress, *args: object) -> T:
    """Run a function whose last argument is `report(done, total, loss)` in the current flow's pool, or right here."""
    pool = _current.get(None)
    return pool.run_reporting(function, on_progress, *args) if pool else function(*args, on_progress)
