"""Slots: how many cells work side by side, and on which accelerators."""

from __future__ import annotations

import itertools
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.foundation.errors import CancelledRunError
from tasks.launch.launchers import Launcher

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


class Slots:
    """Groups of accelerators, or just places on a CPU machine. Whoever works holds one."""

    def __init__(self, groups: tuple[Devices, ...]) -> None:
        self._free = list(groups)
        self._changed = threading.Condition()
        self._closed = False
        self.count = len(groups)

    @contextmanager
    def hold(self) -> Iterator[Devices]:
        """Wait for a free slot and keep it; child processes that are started meanwhile see its accelerators only.

        Raises:
            CancelledRunError: the flow ended while this was waiting.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or bool(self._free))
            if self._closed:
                raise CancelledRunError("the run was cancelled before a slot was free", fix="Run it again")
            group = self._free.pop(0)
        token = _held.set(group)
        try:
            yield group
        finally:
            _held.reset(token)
            with self._changed:
                self._free.append(group)
                self._changed.notify()

    def close(self) -> None:
        """Give no slot away any more, and send those away who wait for one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


_held: ContextVar[Devices] = ContextVar("tasks.launch.slots.held", default=())


def held_devices() -> Devices:
    """The accelerators of the slot that the caller holds; empty on CPU, and for a step that holds none."""
    return _held.get()


def slots_for(settings: Launcher, devices: Devices, cores: int) -> Slots:
    """The slots that the launcher offers on this machine.

    Raises:
        ResourceError: a cell wants more accelerators than there are.
    """
    return Slots(settings.slot_groups(devices, cores))


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
