"""One pipeline in a folder of its own: started, killed, started again, and looked at."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.running import environment
from benchmarks.soak.tracked import METHOD, running_in, tracked_in
from benchmarks.soak.victims import MARK, alive
from benchmarks.world import World
from tasks.foundation.digests import digest_file
from tasks.foundation.values import Value
from tasks.training.recording import read_metrics, read_progress

_POLL_SECONDS = 0.02
_BOUND_SECONDS = 900.0
"""In which a pipeline ends by itself, whatever was killed; longer is a hang."""


class Record(Value):
    """What a pipeline leaves that must not depend on what happened to it."""

    adapter: str
    """sha256 of the adapter's weights."""
    losses: tuple[tuple[int, float], ...]
    """(step, loss) as the training wrote them."""
    tracked: tuple[tuple[int, float], ...]
    """The same as MLflow has them."""
    scores: dict[str, float]
    """What the evaluation found, in MLflow."""


class Pipeline:
    """`tuneline run` of one LoRA cell with some ranks."""

    def __init__(self, world: World, ranks: int) -> None:
        self.world = world
        self.ranks = ranks
        self.mark = str(world.folder)
        self._experiment = world.experiment([METHOD], parallel_cells=1).name
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start the command, the same at every time; when that was."""
        command = [sys.executable, "-m", "flows", "run", self._experiment, f"distributed.ranks_per_node={self.ranks}"]
        with (self.world.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=self.world.folder,
                env=environment(self.world.folder, threads=1) | {MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return time.monotonic()

    def code(self) -> int | None:
        """Exit code of the command; None while it runs."""
        return self._process.poll() if self._process else None

    def wait(self, until: float | None = None) -> int | None:
        """Until the command has ended, or a moment has come; its exit code."""
        limit = until if until is not None else time.monotonic() + _BOUND_SECONDS
        while self.code() is None and time.monotonic() < limit:
            time.sleep(_POLL_SECONDS)
        return self.code()

    def seconds_to_silence(self, patience: float) -> float | None:
        """How long any of its processes is still alive; None where some are when the patience is over."""
        started = time.monotonic()
        while alive(self.mark):
            if time.monotonic() - started > patience:
                return None
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - started

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for pid in alive(self.mark):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process:
            self._process.wait()

    def lost_steps(self) -> int:
        """Steps that were made and are in no checkpoint; 0 where training is done or has not begun."""
        return sum(_lost(work) for work in (self.world.folder / "runs" / "work").glob("*") if self._trains(work))

    def _trains(self, work: Path) -> bool:
        artifact = self.world.folder / "runs" / "artifacts" / "train" / work.name
        return not artifact.exists()

    def record(self) -> Record:
        """Of the finished pipeline."""
        (trained,) = (self.world.folder / "runs" / "artifacts" / "train").glob("*/result.json")
        lines = read_metrics(trained.parent / "metrics.jsonl")
        tracked, scores = tracked_in(self.world.folder)
        return Record(
            adapter=digest_file(trained.parent / "adapter" / "adapter_model.safetensors"),
            losses=tuple((line.step, line.values["train/loss"]) for line in lines if "train/loss" in line.values),
            tracked=tracked,
            scores=scores,
        )

    def running(self) -> int:
        """Runs that MLflow believes to be running."""
        return running_in(self.world.folder)

    def said(self) -> str:
        """The end of what the command printed."""
        return (self.world.folder / "output.txt").read_text(encoding="utf-8", errors="replace")[-1500:]

    def forget(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.world.folder, ignore_errors=True)


def _lost(work: Path) -> int:
    progress = read_progress(work / "progress.json")
    committed = [int(path.parent.name.partition("-")[2]) for path in work.glob("checkpoints/step-*/manifest.json")]
    return max((progress.step if progress else 0) - max(committed, default=0), 0)
