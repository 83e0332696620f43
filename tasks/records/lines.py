"""From the worker's lines to MLflow's metric points."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.tracking import MetricPoint
from tasks.training.recording import MetricLine


def metric_points(lines: Sequence[MetricLine]) -> list[MetricPoint]:
    """One point per value, with the step and the time at which the worker wrote it."""
    return [
        MetricPoint(name=name, value=value, step=line.step, timestamp_ms=line.timestamp_ms)
        for line in lines
        for name, value in sorted(line.values.items())
    ]
