"""metrics.jsonl and progress.json: what the worker says while it runs. Files only; no server is ever called."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.values import Value

log = logging.getLogger(__name__)

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
    """Append-only; at a start it is made what it was at the checkpoint's step, so that each step stands once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restore(self, past: list[MetricLine]) -> list[MetricLine]:
        """Hold these lines and no other, each of them as it was written where it still stands there; what it holds.

        Lines are not synced one by one, so a power cut takes the last of them, and no digest guards them: what the
        checkpoint remembers decides.
        """
        there = {_said(line): line for line in _readable(self.path)}
        if lost := sum(_said(line) not in there for line in past):
            log.warning("%d lines of %s were lost or damaged; taken from the checkpoint", lost, self.path.name)
        kept = [there.get(_said(line), line) for line in past]
        write_durably(self.path, "".join(line.model_dump_json() + "\n" for line in kept))
        return kept

    def append(self, line: MetricLine) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")


def _said(line: MetricLine) -> tuple[int, frozenset[tuple[str, float]]]:
    """What a checkpoint remembers of a line too."""
    return line.step, frozenset((name, value) for name, value in line.values.items() if name != STEP_SECONDS)


def _readable(path: Path) -> Iterator[MetricLine]:
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        with suppress(ValidationError):
            yield MetricLine.model_validate_json(line)


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
