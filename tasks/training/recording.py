"""metrics.jsonl and progress.json: what the worker says while it runs. Files only; no server is ever called."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.values import Value

EVAL_LOSS = "train/eval_loss"
STEP_SECONDS = "perf/step_seconds"


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

    def cut_after(self, step: int, *, evaluated: bool = True) -> list[MetricLine]:
        """Drop the lines of later steps, and a line that a kill tore; what is left.

        `evaluated`: False drops the evaluation at the step itself too, since it comes again.
        """
        kept = [line for line in read_metrics(self.path) if line.step <= step]
        if not evaluated:
            kept = [line for line in kept if line.step < step or EVAL_LOSS not in line.values]
        write_durably(self.path, "".join(line.model_dump_json() + "\n" for line in kept))
        return kept

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


def read_progress(path: Path) -> Progress | None:
    """The latest progress, or None before the first step."""
    try:
        return Progress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
