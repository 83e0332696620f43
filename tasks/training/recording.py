"""metrics.jsonl and progress.json: what the worker says while it runs. Files only; no server is ever called."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.artifacts import write_durably
from tasks.foundation.values import Value

_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "eval_loss": "train/eval_loss",
}


class MetricLine(Value):
    """One line of metrics.jsonl: all values of one optimiser step."""

    step: int
    timestamp_ms: int
    values: dict[str, float]


class Progress(Value):
    """progress.json, replaced atomically at each step."""

    step: int
    total_steps: int
    loss: float | None = None
    seconds_left: float | None = None


class MetricsFile:
    """Append-only; after a resume it is cut back to the checkpoint's step, so that each step stands once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cut_after(self, step: int) -> None:
        """Drop the lines of later steps, and a line that a kill tore."""
        kept = [line for line in read_metrics(self.path) if line.step <= step]
        write_durably(self.path, "".join(line.model_dump_json() + "\n" for line in kept))

    def append(self, line: MetricLine) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")


def read_metrics(path: Path) -> list[MetricLine]:
    """All whole lines; a torn last line is not there yet."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [MetricLine.model_validate_json(line) for line in lines if line.endswith("\n")]


class MetricsTail:
    """Reads a growing metrics.jsonl, each whole line once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[MetricLine]:
        """Lines that were completed since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [MetricLine.model_validate_json(line) for line in whole.split(b"\n")]


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes metrics and progress on rank 0, and measures step times and tokens."""

    def __init__(self, work: Path, tokens_seen: Callable[[], int]) -> None:
        """`tokens_seen`: non-padding tokens that this process has trained on so far."""
        self._metrics = MetricsFile(work / "metrics.jsonl")
        self._progress = work / "progress.json"
        self._tokens_seen = tokens_seen
        self._step_seconds: list[float] = []
        self._step_started = 0.0
        self._loss: float | None = None

    @property
    def step_seconds_median(self) -> float:
        return statistics.median(self._step_seconds) if self._step_seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        seconds = sum(self._step_seconds)
        return self._tokens_seen() / seconds if seconds else 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if state.is_world_process_zero:
            self._metrics.cut_after(state.global_step)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._step_seconds.append(time.perf_counter() - self._step_started)
        if state.is_world_process_zero:
            self._write_progress(state)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        values = {_NAMES[name]: float(value) for name, value in (logs or {}).items() if name in _NAMES}
        if not values or not state.is_world_process_zero:
            return
        self._loss = values.get("train/loss", self._loss)
        if "train/loss" in values and self._step_seconds:
            values["perf/step_seconds"] = self._step_seconds[-1]
        line = MetricLine(step=state.global_step, timestamp_ms=int(time.time() * 1000), values=values)
        self._metrics.append(line)

    def _write_progress(self, state: TrainerState) -> None:
        left = (state.max_steps - state.global_step) * self.step_seconds_median
        progress = Progress(
            step=state.global_step, total_steps=state.max_steps, loss=self._loss, seconds_left=round(left, 1)
        )
        staged = self._progress.with_suffix(".staged")
        staged.write_text(progress.model_dump_json(), encoding="utf-8")
        os.replace(staged, self._progress)


def read_progress(path: Path) -> Progress | None:
    """The latest progress, or None before the first step."""
    try:
        return Progress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
