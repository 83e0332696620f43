"""`ranks/<rank>.json`: where each rank is. Written when it gets on, never by a clock: a hung rank falls silent."""

from __future__ import annotations

import faulthandler
import logging
import os
import shutil
import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tasks.foundation.values import Value

log = logging.getLogger(__name__)

Phase = Literal["loading", "training", "evaluating", "saving", "finishing", "ended"]

FOLDER = "ranks"

_BYTES = 512
"""Of a file: signs replace each other in place, without a new file or another block on a full disk."""

_open_for_life = ExitStack()
"""The files that faulthandler writes to: it keeps their number, not the objects."""


class Beat(Value):
    """The last sign of progress of one rank."""

    rank: int
    host: str
    pid: int
    phase: Phase
    step: int
    """Optimiser steps that are done."""
    count: int
    """Signs so far in this attempt: another number is progress. Ranks give the same ones, so the lowest is behind."""


class Pulse:
    """One rank's hand on its file. Only the thread that trains calls it."""

    def __init__(self, work: Path, rank: int) -> None:
        self._path = work / FOLDER / f"{rank}.json"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._rank = rank
        self._host = socket.gethostname()
        self._phase: Phase = "loading"
        self._step = 0
        self._count = 0
        self._failed = False
        self._path.touch()
        self._write()

    def enter(self, phase: Phase, step: int | None = None) -> None:
        """Another phase begins, or the same one anew after an optimiser step."""
        self._phase = phase
        self.beat(step)

    def beat(self, step: int | None = None) -> None:
        """A micro-step, a batch or a file is done."""
        self._step = self._step if step is None else step
        self._write()

    def _write(self) -> None:
        self._count += 1
        beat = Beat(
            rank=self._rank,
            host=self._host,
            pid=os.getpid(),
            phase=self._phase,
            step=self._step,
            count=self._count,
        )
        try:
            with self._path.open("r+b", buffering=0) as file:  # closed each time: another node sees it then
                file.write(beat.model_dump_json().encode().ljust(_BYTES - 1) + b"\n")
        except OSError as error:
            if not self._failed:
                log.warning("the progress of rank %d cannot be written: %s", self._rank, error)
            self._failed = True


def read_beats(work: Path) -> list[Beat]:
    """The last sign of every rank that gave one, by rank; a file that is being written is read at the next look."""
    beats = []
    for path in (work / FOLDER).glob("*.json"):
        try:
            beats.append(Beat.model_validate_json(path.read_bytes()))
        except (OSError, ValueError):
            continue
    return sorted(beats, key=lambda beat: beat.rank)


def say_ended(work: Path, rank: int) -> None:
    """A rank has done its work: the others may take as long as their own phases allow."""
    for beat in read_beats(work):
        if beat.rank == rank:
            last = Pulse(work, rank)
            last.beat(beat.step)
            last.enter("ended")


def forget_beats(work: Path) -> None:
    """Before an attempt: signs and stacks of an earlier one say nothing about it."""
    shutil.rmtree(work / FOLDER, ignore_errors=True)


def stacks_file(work: Path, rank: int) -> Path:
    """Where a rank writes the stacks of its threads when it is asked to."""
    return work / FOLDER / f"{rank}.stacks"


def answer_with_stacks(work: Path, rank: int) -> None:
    """From now on SIGUSR1 has this process write the stacks of all its threads, even while it waits in a library."""
    path = stacks_file(work, rank)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _open_for_life.enter_context(path.open("w", encoding="utf-8"))
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True, chain=False)
