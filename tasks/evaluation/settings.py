"""What is measured on the held-out rows."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.values import Settings


class EvaluationSettings(Settings):
    """Section `evaluation`."""

    metrics: tuple[str, ...] = Field(default=("loss",), min_length=1)
    """Names of metrics (`tasks/metrics/`); the first decides the winner unless `registry.metric` says otherwise."""
    max_new_tokens: int = Field(default=128, gt=0)
    """Longest generated answer."""
    batch_size: int = Field(default=16, gt=0)
    """Rows per batch, fixed: batching moves the last bits of a result."""
    labels: tuple[str, ...] | None = None
    """Answers that `accuracy` and `f1` choose from by likelihood; when absent, those of the training rows (<= 50)."""
    probe: str | None = None
    """A text file of another domain, or `embedded:probe`; the change of its loss is reported as forgetting."""
    probe_tokens: int = Field(default=8192, gt=0)
    """Tokens of the probe that are read at most."""
    size_metrics: tuple[str, ...] = Field(default=("loss",), min_length=1)
    """Metrics measured at every size, for methods whose result can be served in several (`adapter_drop`, …)."""
    samples: int = Field(default=5, ge=0)
    """Predictions shown side by side in the report; 0 logs none."""
