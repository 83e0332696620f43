"""From the worker's lines to MLflow's metric points."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.tracking import MetricPoint, Run, RunRef
from tasks.training.recording import MetricLine


def metric_points(lines: Sequence[MetricLine]) -> list[MetricPoint]:
    """One point per value, with the step and the time at which the worker wrote it."""
    return [
        MetricPoint(name=name, value=value, step=line.step, timestamp_ms=line.timestamp_ms)
        for line in lines
        for name, value in sorted(line.values.items())
    ]


class Series:
    """The series of one run: however many attempts write lines, each step of a name stands in it once.

    An attempt that begins anew (with a smaller micro-batch) repeats the steps of the one before, up to rounding.
    """

    def __init__(self, ref: RunRef) -> None:
        self._run = Run(ref)
        self._last: dict[str, int] = {}

    def add(self, lines: Sequence[MetricLine]) -> None:
        """Send what is beyond the last step of each name."""
        new = [point for point in metric_points(lines) if point.step > self._last.get(point.name, -1)]
        self._last |= {point.name: point.step for point in new}
        self._run.log_metric_series(new)
