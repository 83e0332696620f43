"""Slots: how many cells work side by side, and on which accelerators."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tasks.foundation.errors import ResourceError
from tasks.launch.settings import DistributedSettings

Devices = tuple[str, ...]
"""Accelerator ids as CUDA_VISIBLE_DEVICES takes them; empty on CPU."""


def accelerators() -> Devices:
    """Ids of the accelerators that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(device for device in visible.split(",") if device not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(index) for index, line in enumerate(listed.splitlines()) if line.startswith("GPU "))


class Slots:
    """Groups of accelerators, or just places on a CPU machine. Whoever works holds one."""

    def __init__(self, groups: tuple[Devices, ...]) -> None:
        self._free = list(groups)
        self._changed = threading.Condition()
        self.count = len(groups)

    @contextmanager
    def hold(self) -> Iterator[Devices]:
        """Wait for a free slot and keep it."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._free))
            group = self._free.pop(0)
        try:
            yield group
        finally:
            with self._changed:
                self._free.append(group)
                self._changed.notify()


def slots_for(settings: DistributedSettings, devices: Devices, cores: int) -> Slots:
    """As many slots as the accelerators (or the cores) allow, at most `parallel_cells`.

    Raises:
        ResourceError: a cell wants more accelerators than there are.
    """
    ranks = settings.ranks_per_node
    if devices and ranks > len(devices):
        raise ResourceError(
            f"{ranks} ranks were asked for and {len(devices)} accelerators are here",
            where="distributed.ranks_per_node",
            fix=f"Set it to at most {len(devices)}",
        )
    fitting = max((len(devices) or cores) // ranks, 1)
    count = min(settings.parallel_cells or fitting, fitting) if devices else (settings.parallel_cells or fitting)
    return Slots(tuple(devices[i * ranks : (i + 1) * ranks] for i in range(count)))


_current: ContextVar[Slots] = ContextVar("tasks.launch.slots")


@contextmanager
def sharing(slots: Slots) -> Iterator[None]:
    """Make the slots those of a flow; its tasks' threads inherit them through their context."""
    token = _current.set(slots)
    try:
        yield
    finally:
        _current.reset(token)


def current_slots() -> Slots:
    """The flow's slots, or a single one for a task called by itself."""
    return _current.get(None) or Slots((accelerators()[:1],))
