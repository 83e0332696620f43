"""The worker's hand on metrics.jsonl and progress.json."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.training.recording import EVAL_LOSS, STEP_SECONDS, MetricLine, MetricsFile, Progress

log = logging.getLogger(__name__)

_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "eval_loss": EVAL_LOSS,
}

_PROGRESS_SECONDS = 0.2
_RECENT_STEPS = 50
"""From which the remaining time is estimated."""


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes metrics and progress on rank 0, and measures step times."""

    def __init__(self, work: Path, guard: Callable[[], None] = lambda: None) -> None:
        """`guard`: called before anything is written; it raises where another attempt has taken over."""
        self._guard = guard
        self._metrics = MetricsFile(work / "metrics.jsonl")
        self._progress = work / "progress.json"
        self._earlier: list[float] = []
        self._logging_steps = 1
        self._step_seconds: list[float] = []
        self._step_started = 0.0
        self._written = -math.inf
        self._loss: float | None = None
        self._unshown = 0

    @property
    def step_seconds_median(self) -> float:
        """Over the steps of this attempt and the logged ones of earlier attempts."""
        every = [*self._earlier, *self._step_seconds]
        return statistics.median(every) if every else 0.0

    @property
    def earlier_seconds(self) -> float:
        """What the steps of earlier attempts took, those between two logged ones counted like the logged one."""
        return sum(self._earlier) * self._logging_steps

    @property
    def step_seconds(self) -> float:
        """What all steps took, those of earlier attempts included."""
        return self.earlier_seconds + sum(self._step_seconds)

    def take_up(self, history: Sequence[Mapping[str, float]], logging_steps: int) -> None:
        """Go on after what an earlier attempt had logged when it saved: `log_history` of the checkpoint's state."""
        self._guard()
        now = int(time.time() * 1000)
        logged = ((int(entry["step"]), _named(entry)) for entry in history)
        past = [MetricLine(step=step, timestamp_ms=now, values=values) for step, values in logged if values]
        kept = self._metrics.restore(past)
        self._earlier = [line.values[STEP_SECONDS] for line in kept if STEP_SECONDS in line.values]
        self._logging_steps = logging_steps

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        if state.is_world_process_zero:
            self.take_up(state.log_history, int(args.logging_steps))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        self._step_seconds.append(time.perf_counter() - self._step_started)
        if control.should_evaluate or state.global_step >= state.max_steps:
            control.should_log = True  # training may end here, and a result without a loss is none
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
        values = _named(logs or {})
        if not values or not state.is_world_process_zero:
            return
        self._loss = values.get("train/loss", self._loss)
        if "train/loss" in values and self._step_seconds:
            values[STEP_SECONDS] = self._step_seconds[-1]
        self._guard()
        line = MetricLine(step=state.global_step, timestamp_ms=int(time.time() * 1000), values=values)
        self._metrics.append(line)

    def _write_progress(self, state: TrainerState) -> None:
        """Not more often than anybody looks: a rename can take longer than a step of a tiny model."""
        now, last = time.perf_counter(), state.global_step >= state.max_steps
        if now - self._written < _PROGRESS_SECONDS and not last:
            return
        self._written = now
        left = (state.max_steps - state.global_step) * statistics.median(self._step_seconds[-_RECENT_STEPS:])
        progress = Progress(
            step=state.global_step, total_steps=state.max_steps, loss=self._loss, seconds_left=round(left, 1)
        )
        staged = self._progress.with_suffix(".staged")
        try:
            staged.write_text(progress.model_dump_json(), encoding="utf-8")
            staged.replace(self._progress)
        except OSError as error:  # a courtesy: the metrics decide
            if not self._unshown:
                log.warning("the progress cannot be shown: %s", error)
            self._unshown += 1


def _named(logs: Mapping[str, float]) -> dict[str, float]:
    """What is recorded of some logged values, under our names and in their order."""
    return {ours: float(logs[name]) for name, ours in _NAMES.items() if name in logs}
