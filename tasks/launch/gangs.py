"""The gangs that are running for this flow: all of them end when the flow does, however it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.foundation.errors import CancelledRunError
from tasks.launch.protocol import Gang

GRACE_SECONDS = 15.0
"""From SIGTERM to SIGKILL: Prefect gives a cancelled flow 30 s, and the checkpoint must be committed by then."""


class Gangs:
    """A register with one switch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Gang] = []
        self._cancelled = threading.Event()

    @contextmanager
    def running(self, gang: Gang) -> Iterator[None]:
        """Hold a gang; whatever is raised inside, or happened to its agent, no rank is alive afterwards.

        Raises:
            CancelledRunError: the flow was cancelled while the gang was being started.
        """
        with self._lock:
            self._running.append(gang)
        try:
            self.check()
            yield
        finally:
            if gang.poll() != 0:
                gang.cancel(GRACE_SECONDS)
            with self._lock:
                self._running.remove(gang)

    def check(self) -> None:
        """Raise CancelledRunError once the flow has been cancelled."""
        if self._cancelled.is_set():
            raise CancelledRunError("the run was cancelled", fix="Run it again to go on from the last checkpoint")

    def cancel_all(self) -> None:
        """End every gang, side by side, and let no new one start."""
        self._cancelled.set()
        with self._lock:
            running = list(self._running)
        if running:
            with ThreadPoolExecutor(len(running)) as pool:
                list(pool.map(lambda gang: gang.cancel(GRACE_SECONDS), running))


_current: ContextVar[Gangs] = ContextVar("tasks.launch.gangs")


@contextmanager
def gangs() -> Iterator[Gangs]:
    """The register of a flow; its tasks' threads inherit it through their context."""
    register = Gangs()
    token = _current.set(register)
    try:
        yield register
    finally:
        _current.reset(token)
        register.cancel_all()


def current_gangs() -> Gangs:
    """The flow's register, or a fresh one for a task called by itself."""
    return _current.get(None) or Gangs()
