"""A launcher of forked ranks: the pipeline's side of training, without 12 s of imports per gang."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

from pydantic import Field

from tasks.foundation.errors import TunelineError
from tasks.launch import GangJob, Launcher, StallSettings
from tasks.training.recording import MetricLine
from tasks.training.run import train
from tasks.training.supervision import Watch
from tasks.training.values import TrainRequest
from tests.training.ranks import fork_ranks

PATIENT = StallSettings(loading=300, training=300, evaluating=300, saving=300, finishing=300)


class ForkedGang:
    """Like torchrun: the first rank that fails takes the others with it."""

    def __init__(self, ranks: list[BaseProcess]) -> None:
        self._ranks = ranks

    def poll(self) -> int | None:
        codes = [rank.exitcode for rank in self._ranks]
        failed = [code for code in codes if code]
        if failed:
            self.cancel(10)
            return failed[0] if failed[0] > 0 else 128 - failed[0]
        return 0 if set(codes) == {0} else None

    def status(self) -> str:
        return ""

    def dump_stacks(self) -> None:
        self._signal(signal.SIGUSR1)

    def cancel(self, grace_seconds: float) -> None:
        self._signal(signal.SIGTERM)
        end = time.monotonic() + grace_seconds
        for rank in self._ranks:
            rank.join(max(end - time.monotonic(), 0))
        self._signal(signal.SIGKILL)
        for rank in self._ranks:
            rank.join()

    def _signal(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            if rank.is_alive() and rank.pid:
                os.kill(rank.pid, number)


class ForkLauncher(Launcher):
    """`fork`: for tests."""

    launcher: Literal["fork"] = "fork"
    environment: dict[str, str] = Field(default_factory=dict)
    """Of every rank, faults included."""

    def start(self, job: GangJob) -> ForkedGang:
        return ForkedGang(fork_ranks(job.request, job.ranks, **self.environment))


class Seen:
    """What a run told its watcher."""

    def __init__(self, work: Path) -> None:
        self.lines: list[MetricLine] = []
        self.notes: list[str] = []
        self.output: list[str] = []
        self.watch = Watch(work, self.lines.extend, lambda progress: None, self.notes.append, self.output.append)

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, loss) in the order in which they were told."""
        return [(line.step, line.values["train/loss"]) for line in self.lines if "train/loss" in line.values]


def run_gang(request: TrainRequest, launcher: Launcher) -> tuple[TunelineError | None, Seen]:
    """Train as the pipeline does; what it raised, and what it told."""
    seen = Seen(request.work)
    try:
        train(request, launcher, (), seen.watch)
    except TunelineError as error:
        return error, seen
    return None, seen
