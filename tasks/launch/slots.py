"""Slots: how many cells work side by side, and on which accelerators."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from tasks.foundation.errors import CancelledRunError
from tasks.launch.launchers import Launcher
from tasks.launch.locks import try_lock

_LOOK_SECONDS = 0.5
"""How often a device is looked at that another run holds."""

Say = Callable[[str], None]
"""Gets what is waited for."""

Devices = tuple[str, ...]
"""Accelerator ids as CUDA_VISIBLE_DEVICES takes them; empty on CPU."""


def accelerators() -> Devices:
    """Ids of the accelerators that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [device.strip() for device in visible.split(",")]
        return tuple(itertools.takewhile(lambda device: device not in ("", "-1"), named))  # CUDA stops there as well
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = (line for line in listed.splitlines() if line.startswith("GPU "))
    return tuple(str(index) for index, _ in enumerate(gpus))


class Permit(Protocol):
    """Leave to work beside other runs, from whoever counts the accelerators of all of them."""

    def __call__(self, ranks: int, check: Callable[[], None], say: Say) -> AbstractContextManager[None]:
        """Wait for it, and keep it.

        Args:
            ranks: how many work.
            check: raises as soon as nobody waits any more.
            say: gets what is waited for.
        """


def free_for_all(ranks: int, check: Callable[[], None], say: Say) -> AbstractContextManager[None]:
    """Nobody counts."""
    return nullcontext()


class Slots:
    """Groups of accelerators, or just places on a CPU machine. Whoever works holds one.

    Beside it, leave to work, and the locks of its accelerators: in this order everywhere, so that no two runs wait for
    each other.
    """

    def __init__(self, groups: tuple[Devices, ...], ranks: int = 1, permit: Permit = free_for_all) -> None:
        """`ranks`: those of a cell on this machine; 0 where they work elsewhere, and need no leave here."""
        self._free = list(groups)
        self._ranks = ranks
        self._permit = permit if ranks else free_for_all
        self._changed = threading.Condition()
        self._closed = False
        self.count = len(groups)

    @contextmanager
    def hold(self, say: Say = lambda reason: None) -> Iterator[Devices]:
        """Wait for a free slot and keep it; child processes that are started meanwhile see its accelerators only.

        Args:
            say: gets what is waited for beyond this flow.

        Raises:
            CancelledRunError: the flow ended while this was waiting.
            ResourceError: whoever counts the accelerators knows nothing of them.
        """
        group = self._take()
        try:
            with self._permit(self._ranks, self._check, say), ExitStack() as stack:
                while (locks := try_lock(group)) is None:
                    names = ", ".join(group)
                    say(f"another run on this machine holds accelerator {names}")
                    time.sleep(_LOOK_SECONDS)
                    group = self._another(group)
                stack.enter_context(locks)
                token = _held.set(group)
                try:
                    yield group
                finally:
                    _held.reset(token)
        finally:
            with self._changed:
                self._free.append(group)
                self._changed.notify()

    def _take(self) -> Devices:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._free))
            self._check()
            return self._free.pop(0)

    def _another(self, group: Devices) -> Devices:
        """The next group that is free in this flow; the same one where there is no other."""
        with self._changed:
            self._check()
            self._free.append(group)
            return self._free.pop(0)

    def _check(self) -> None:
        if self._closed:
            raise CancelledRunError("the run was cancelled before a slot was free", fix="Run it again")

    def close(self) -> None:
        """Give no slot away any more, and send those away who wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


_held: ContextVar[Devices] = ContextVar("tasks.launch.slots.held", default=())


def held_devices() -> Devices:
    """The accelerators of the slot that the caller holds; empty on CPU, and for a step that holds none."""
    return _held.get()


def slots_for(settings: Launcher, devices: Devices, cores: int, permit: Permit = free_for_all) -> Slots:
    """The slots that the launcher offers on this machine.

    Args:
        permit: leave to work, from whoever counts the accelerators of all runs.

    Raises:
        ResourceError: a cell wants more accelerators than there are.
    """
    return Slots(settings.slot_groups(devices, cores), settings.ranks_here, permit)


_current: ContextVar[Slots] = ContextVar("tasks.launch.slots")


@contextmanager
def sharing(slots: Slots) -> Iterator[None]:
    """Make the slots those of a flow; its tasks' threads inherit them through their context."""
    token = _current.set(slots)
    try:
        yield
    finally:
        _current.reset(token)
        slots.close()


def current_slots() -> Slots:
    """The flow's slots, or a single one for a task called by itself."""
    return _current.get(None) or Slots((accelerators()[:1],))
