"""Comparisons in view: the base, two good cells, one without the deciding metric, one that failed."""

from __future__ import annotations

from typing import Any, Literal

from tasks.comparison import Comparison, ComparisonRow, MetricColumn, compare

LOSS = MetricColumn(name="loss", higher_is_better=False)
BLEU = MetricColumn(name="bleu", higher_is_better=True)
DIGEST = "d" * 64
DROP = {"drop 0": {"loss": 1.1, "bleu": 30.0}, "drop 1": {"loss": 1.25, "bleu": 28.0}, "drop | 2": {"loss": 3.0}}


def row(kind: str, status: Literal["done", "cached", "failed"] = "done", **facts: Any) -> ComparisonRow:
    facts = {"label": kind, "seed": 0, "rows_digest": DIGEST, **facts}
    return ComparisonRow(kind=kind, status=status, **facts)


def five_rows() -> list[ComparisonRow]:
    return [
        row("ia3", "failed", reason="the loss became NaN at step 12.\nLower the | learning_rate"),
        row("none", "cached", metrics={"loss": 4.3, "bleu": 0.12}),
        row("lora", metrics={"loss": 1.2, "bleu": 29.1}, trainable_parameters=32_000, merge="merged"),
        row("prompt_tuning", metrics={"loss": float("nan"), "bleu": 3.1}, trainable_parameters=1280),
        row(
            "full",
            metrics={"loss": 1.1, "bleu": 31.23},
            trainable_parameters=260_032,
            peak_memory_bytes=812_000_000,
            train_seconds=65.2,
            tokens_per_second=12_345.0,
            weights_bytes=1_044_992,
        ),
    ]


def five_cells(metric: str = "loss") -> Comparison:
    return compare("stories", five_rows(), [LOSS, BLEU], metric, DIGEST)


def elastic() -> Comparison:
    """A base, a cell with three sizes and one with two."""
    rows = [
        row("none", metrics={"loss": 4.3, "bleu": 0.1}),
        row("adapter_drop", metrics={"loss": 1.1, "bleu": 30.0}, sizes=DROP),
        row("lora", metrics={"loss": 1.2, "bleu": 29.0}),
        row("shrinking", metrics={"loss": 1.3, "bleu": 27.0}, sizes={"r 8": {"loss": 1.3}, "r 4": {"loss": 1.6}}),
    ]
    return compare("elastic", rows, [LOSS, BLEU], "loss", DIGEST)
