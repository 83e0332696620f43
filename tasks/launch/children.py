"""Child processes for merging, evaluating and registering. A death takes one call with it, not its neighbours'."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from tasks.foundation.errors import CancelledRunError
from tasks.launch.child import Call, Child, OnProgress
from tasks.launch.launchers import StallSettings
from tasks.launch.slots import held_devices
from tasks.launch.vigil import PATIENCE

P = ParamSpec("P")
T = TypeVar("T")


class Children:
    """At most `count` calls at a time, each in a process of its own; a process serves many calls, one after another."""

    def __init__(self, count: int, log: Path, stall: StallSettings = PATIENCE) -> None:
        """`log`: file that gets whatever the children print, appended; `stall`: how long one may do nothing."""
        self._count = count
        self._stall = stall
        self._log = log
        self._changed = threading.Condition()
        self._idle: list[Child] = []
        self._busy: list[Child] = []
        self._closed = False

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a module-level function in a child and wait.

        Raises:
            TunelineError: as the function raised it, ResourceError where the child was killed, HangError where it did
                nothing for too long, CancelledRunError where the flow ended meanwhile.
        """
        return cast(T, self._run(Call(function, args, kwargs, reports=False), None))

    def run_reporting(self, function: Callable[..., T], on_progress: OnProgress, *args: object) -> T:
        """Like `run`; the function gets one more argument, `report(done, total, loss)`, which reaches `on_progress`."""
        return cast(T, self._run(Call(function, args, {}, reports=True), on_progress))

    def _run(self, call: Call, on_progress: OnProgress | None) -> object:
        child = self._take()
        try:
            return child.run(call, on_progress)
        except Exception as error:
            if self._closed:
                raise _cancelled() from error
            raise
        finally:
            self._give_back(child)

    def _take(self) -> Child:
        """A free child that sees the caller's accelerators, or a new one."""
        devices = held_devices()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._busy) < self._count)
            if self._closed:
                raise _cancelled()
            self._idle = [child for child in self._idle if child.usable]
            child = next((child for child in self._idle if child.devices == devices), None)
            if child is None:
                child = Child(self._log, devices, self._stall)
            else:
                self._idle.remove(child)
            self._busy.append(child)
            return child

    def _give_back(self, child: Child) -> None:
        """Keep a child for the next call, unless it is dead, in the middle of one, or no longer wanted."""
        with self._changed:
            self._busy.remove(child)
            keep = child.usable and not self._closed
            if keep:
                self._idle.append(child)
            self._changed.notify()
        if not keep:
            child.kill()

    def close(self) -> None:
        """End all children: idle ones in order, busy ones (the flow was cancelled) at once."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
            self._changed.notify_all()
        for child in busy:
            child.kill()
        for child in idle:
            child.end()


def _cancelled() -> CancelledRunError:
    return CancelledRunError("the run was cancelled", fix="Run it again to go on from the last checkpoint")


_current: ContextVar[Children] = ContextVar("tasks.launch.children")


@contextmanager
def children(count: int, log: Path, stall: StallSettings = PATIENCE) -> Iterator[Children]:
    """A pool for the length of a flow; its tasks' threads inherit it through their context."""
    pool = Children(count, log, stall)
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
    if pool:
        return pool.run_reporting(function, on_progress, *args)
    return function(*args, lambda done, total, loss=None: on_progress(done, total, loss))
