"""Whether a child process gets on. It lives is no answer: a deadlock lives too."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tasks.launch.launchers import StallSettings

_WORK_SHARE = 0.01
"""Processor time, as a share of the limit, that counts as work. Threads that only wait take a hundredth of that."""
_WORK_BYTES = 1 << 20
_LONGEST_LOOK_SECONDS = 5.0
"""A look that comes later than this after the one before says that we were asleep (Ctrl-Z), not that the child was."""

PATIENCE = StallSettings()
"""The defaults."""


class Vigil:
    """Watches one call of a child.

    A call that reports is judged by its reports alone, from the first one on. Before that, and where a function does
    not report, work counts that the system sees: processor time of the child and its children, and bytes read and
    written.
    """

    def __init__(
        self, process: psutil.Process, stall: StallSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._process = process
        self._stall = stall
        self._clock = clock
        self._silent = 0.0
        self._looked = clock()
        self._work = _work_of(process)
        self._reported = False

    @property
    def limit_seconds(self) -> float:
        """Seconds without a sign after which the call hangs."""
        return self._stall.evaluating if self._reported else self._stall.loading

    @property
    def setting(self) -> str:
        """The setting that this limit comes from."""
        return f"distributed.stall_seconds.{'evaluating' if self._reported else 'loading'}"

    def reported(self) -> None:
        """The function has got on, by its own word."""
        self._reported = True
        self._silent, self._looked = 0.0, self._clock()

    def is_over(self) -> bool:
        """True when the last sign is longer ago than the limit; to be asked again and again."""
        before, self._looked = self._looked, self._clock()
        self._silent += min(self._looked - before, _LONGEST_LOOK_SECONDS)
        if not self._reported and self._has_worked():
            self._silent = 0.0
        return self._silent > self.limit_seconds

    def _has_worked(self) -> bool:
        seconds, size = _work_of(self._process)
        worked = seconds - self._work[0] > _WORK_SHARE * self.limit_seconds or size - self._work[1] > _WORK_BYTES
        if worked:
            self._work = (seconds, size)
        return worked


def _work_of(process: psutil.Process) -> tuple[float, int]:
    """Processor seconds, and bytes read and written, of a process and those below it, the ended ones included."""
    seconds, size = 0.0, 0
    with suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            if hasattr(each, "io_counters"):  # macOS tells nobody
                counters = each.io_counters()
                size += int(counters.read_chars + counters.write_chars)
    return seconds, size
