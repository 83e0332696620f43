"""Metrics, one file each. The public face of the package."""

from tasks.metrics._base import Example, Measurement, Metric, Needs

__all__ = ["Example", "Measurement", "Metric", "Needs"]
