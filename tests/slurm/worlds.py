"""Gangs and trainings on a test's cluster."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tasks.launch import GangJob, Layout
from tasks.launch.gangs import Gangs, gangs
from tasks.launch.launchers._slurm_gang import SlurmGang
from tasks.launch.launchers.slurm import SlurmLauncher
from tasks.training.checkpoints import Checkpoints
from tasks.training.run import train
from tasks.training.supervision import Watch
from tasks.training.values import Cell, TrainRequest, TrainResult
from tests.launch.worlds import job_in, wait_until

TWO_NODES = Layout(nodes=2)


def launcher(**settings: Any) -> SlurmLauncher:
    """Two nodes with one rank each, on CPUs."""
    return SlurmLauncher.model_validate({"nodes": 2, "accelerator": "cpu", "warning_seconds": 5} | settings)


def job_on(nodes: int, folder: Path, **asked: Any) -> GangJob:
    """A job with one rank per node that does what is asked (tests/launch/gang_module.py)."""
    return job_in(folder, **asked).model_copy(update={"layout": Layout(nodes=nodes)})


def ended(gang: SlurmGang) -> int:
    wait_until(lambda: gang.poll() is not None)
    code = gang.poll()
    assert code is not None
    return code


def on_two_nodes(cell: Cell) -> Cell:
    return cell.model_copy(update={"layout": TWO_NODES})


class Training(threading.Thread):
    """The pipeline's side of one cell, in a thread: it can be waited for, or cancelled as a flow is."""

    def __init__(self, request: TrainRequest, settings: SlurmLauncher) -> None:
        super().__init__(daemon=True)
        self.request = request
        self.notes: list[str] = []
        self.error: Exception | None = None
        self._settings = settings
        self._register: Gangs | None = None
        self.start()

    def run(self) -> None:
        watch = Watch(self.request.work, lambda lines: None, lambda seen: None, self.notes.append)
        with gangs() as self._register:
            try:
                train(self.request, self._settings, (), watch)
            except Exception as error:
                self.error = error

    def wait_for_checkpoint(self, step: int) -> None:
        """Of that step or a later one."""
        checkpoints = Checkpoints(self.request.work / "checkpoints", self.request.identity)
        wait_until(lambda: not self.is_alive() or max(checkpoints.steps(), default=0) >= step)
        assert self.is_alive(), self.error

    def wait_for_note(self, beginning: str) -> None:
        wait_until(lambda: not self.is_alive() or any(note.startswith(beginning) for note in self.notes))
        assert self.is_alive(), self.error

    def cancel(self) -> None:
        assert self._register is not None
        self._register.cancel_all()

    def result(self) -> TrainResult:
        """Wait for its end, which is a good one."""
        self.join()
        log = (self.request.work / "log.txt").read_text(encoding="utf-8", errors="replace")
        assert self.error is None, f"{self.error}\n{log[-5000:]}"
        return TrainResult.model_validate_json((self.request.output / "result.json").read_text(encoding="utf-8"))
