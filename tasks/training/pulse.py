"""`ranks/<rank>.json`: where each rank is. Written when it gets on, never by a clock: a hung rank falls silent."""

from __future__ import annotations

import math
import os
import socket
import time
from pathlib import Path
from typing import Literal

from tasks.foundation.values import Value

Phase = Literal["loading", "training", "evaluating", "saving", "finishing"]

FOLDER = "ranks"

_INTERVAL_SECONDS = 0.5
"""Within a phase a rank says no more often that it got on; a change of phase is said at once."""


class Beat(Value):
    """The last sign of progress of one rank."""

    rank: int
    host: str
    pid: int
    phase: Phase
    step: int
    """Optimiser steps that are done."""
    count: int
    """Signs so far in this attempt: another number is progress."""


class Pulse:
    """One rank's hand on its file. Only the thread that trains calls it."""

    def __init__(self, work: Path, rank: int) -> None:
        self._path = work / FOLDER / f"{rank}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._phase: Phase = "loading"
        self._step = 0
        self._count = 0
        self._written = -math.inf

    def enter(self, phase: Phase) -> None:
        """Another phase begins."""
        self._phase = phase
        self._write()

    def beat(self, step: int | None = None) -> None:
        """A micro-step, a batch or a file is done."""
        self._step = self._step if step is None else step
        if time.monotonic() - self._written >= _INTERVAL_SECONDS:
            self._write()

    def _write(self) -> None:
        self._count += 1
        self._written = time.monotonic()
        beat = Beat(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            phase=self._phase,
            step=self._step,
            count=self._count,
        )
        staged = self._path.with_suffix(".staged")
        staged.write_text(beat.model_dump_json(), encoding="utf-8")
        staged.replace(self._path)


def read_beats(work: Path) -> list[Beat]:
    """The last sign of every rank that gave one, by rank; a file that is being replaced is read at the next look."""
    beats = []
    for path in (work / FOLDER).glob("*.json"):
        try:
            beats.append(Beat.model_validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(beats, key=lambda beat: beat.rank)
