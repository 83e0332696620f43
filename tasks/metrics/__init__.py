"""Metrics, one file each. The public face of the package."""

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._catalogue import all_metrics, metric_code, metrics_named

__all__ = ["Example", "Measurement", "Metric", "Needs", "all_metrics", "metric_code", "metrics_named"]
