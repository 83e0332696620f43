"""Scores of one candidate on the held-out rows."""

from __future__ import annotations

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value


class Scores(Value):
    """scores.json: aggregate values; predictions.jsonl holds them per example."""

    metrics: dict[str, float]
    """Metric name -> value, for example {"loss": 1.1, "perplexity": 3.0, "bleu": 31.2, "rouge1": .5}."""
    probe_loss: float | None = None
    """Cross-entropy per token on the probe text, in nats."""
    rows: int
    """Rows whose likelihood was measured."""
    prompts: int
    """Distinct prompts, each answered once; their rows are references of one another."""
    rows_digest: str
    """sha256 over the ids of the rows: two scores compare only where it is equal."""


class Sample(Value):
    """One prompt with its answers, for a side by side look."""

    id: str
    prompt: str
    references: tuple[str, ...]
    prediction: str


class EvaluatedCell(Value):
    """Artifact `evaluate`: scores.json and predictions.jsonl."""

    artifact: Artifact
    scores: Scores
    samples: tuple[Sample, ...] = ()
    seconds: float = 0.0
