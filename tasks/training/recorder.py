"""The worker's hand on metrics.jsonl and progress.json."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.training.recording import MetricLine, MetricsFile, Progress

_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "eval_loss": "train/eval_loss",
}


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
        staged.replace(self._progress)
