"""The comparison: one row per cell."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from tasks.foundation.values import Value


class MetricColumn(Value):
    """A metric that the comparison shows: a key of `ComparisonRow.metrics` and its direction."""

    name: str
    higher_is_better: bool


class ComparisonRow(Value):
    """One cell. Memory in bytes, time in seconds; None where a step did not run."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    """A score may be NaN; JSON has no such number, and null would not come back."""

    label: str
    kind: str
    seed: int
    status: Literal["done", "cached", "failed"]
    reason: str = ""
    """One line, when it failed."""
    note: str = ""
    """One line: the earlier results that it goes on from, and where something else ran than was asked for."""
    metrics: dict[str, float] = Field(default_factory=dict)
    delta: dict[str, float] = Field(default_factory=dict)
    """Metric -> difference to the untuned base."""
    forgetting: float | None = None
    """Probe loss minus the untuned base's probe loss: above 0 the model got worse on the other domain."""
    trainable_parameters: int | None = None
    peak_memory_bytes: int | None = None
    train_seconds: float | None = None
    tokens_per_second: float | None = None
    weights_bytes: int | None = None
    sizes: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Size -> metric -> value, the largest first, where the result can be served in several."""
    hard_prompt: bool = False
    """The untuned base asked with examples or a template of its own."""
    merge: str = "-"
    """`merged`, `not_needed`, `cannot`, `disabled` or `-`."""
    run_id: str = ""
    """MLflow run of the row, or of the run that made a cached one."""
    rows_digest: str = ""
    """`Scores.rows_digest` of the row's metrics; empty only when it has none."""


class Comparison(Value):
    """All rows, best first by `metric`; failed ones last."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    name: str
    metric: str
    higher_is_better: bool
    metrics: tuple[str, ...]
    """Columns, in the order of `evaluation.metrics`."""
    lower_is_better: tuple[str, ...] = ()
    """Those of `metrics` where less is better."""
    rows: tuple[ComparisonRow, ...]
    winner: str | None
    """Label of the best trained cell; None when no trained cell succeeded."""
    rows_digest: str
    """The evaluation rows that all scores share."""
