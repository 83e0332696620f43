"""The steps in progress: a flow that ends waits until each of them has said how its run ended.

And the cells that were opened: those that no step came to are closed by the flow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.workspace.values import Place


class Steps:
    """Counts the steps in progress of one flow, and knows its cells."""

    def __init__(self) -> None:
        self.cells: list[Place] = []
        self._count = 0
        self._changed = threading.Condition()

    def opened(self, cell: Place) -> None:
        """A cell got a run of its own."""
        self.cells.append(cell)

    @contextmanager
    def one(self) -> Iterator[None]:
        """A step, from its begin to its last record."""
        self._add(1)
        try:
            yield
        finally:
            self._add(-1)

    def wait(self, seconds: float) -> bool:
        """Wait until no step is in progress; False when one still is after this time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._count == 0, timeout=seconds)

    def _add(self, number: int) -> None:
        with self._changed:
            self._count += number
            self._changed.notify_all()


_current: ContextVar[Steps] = ContextVar("tasks.workspace.steps")


@contextmanager
def counting() -> Iterator[Steps]:
    """The steps of a flow; its tasks' threads inherit them through their context."""
    steps = Steps()
    token = _current.set(steps)
    try:
        yield steps
    finally:
        _current.reset(token)


def current_steps() -> Steps:
    """Those of the flow, or of a task called by itself."""
    return _current.get(None) or Steps()
