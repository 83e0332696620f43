"""What is known of a version when it is registered: the record that the gate reads, and nothing else.

It lies beside the version's files under the name of its own sha256, which the version's tag repeats.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from tasks.foundation.values import Value
from tasks.registry.settings import GateSettings


class Scored(Value):
    """What one model scored."""

    model_config = ConfigDict(ser_json_inf_nan="strings")
    """A score may be NaN, which JSON does not know; it comes back as NaN and passes no gate."""

    weights_digest: str
    """sha256 of the weights that were asked."""
    rows_digest: str
    """sha256 over the ids of the evaluation rows that tokenisation kept."""
    metrics: dict[str, float]
    """Aggregates by name."""
    per_row: dict[str, dict[str, float]]
    """Metric -> id of the row (or prompt) -> its score."""
    probe_loss: float | None = None
    """Nats per token on the probe text."""


class ScoredChampion(Scored):
    """The champion of that day, asked the same."""

    version: int
    package_digest: str


class MergeRecord(Value):
    """How the adapter became part of the base; differences are of logits, relative to the largest one."""

    outcome: Literal["merged", "not_needed", "cannot", "disabled"]
    largest_difference: float | None = None
    tolerance: float | None = None


class Record(Value):
    """Everything that the gate looks at. Digests are sha256."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    layout: Literal[1] = 1
    model_name: str
    label: str
    run_id: str
    package_digest: str = ""
    """Of the version that it belongs to; known when it is packaged."""
    fingerprint: str
    base_digest: str
    tokenizer_digest: str
    data_digest: str
    code_commit: str
    metric: str
    """The metric that named the winner."""
    directions: dict[str, bool]
    """Metric (aggregates and per-row names) -> whether more is better."""
    scored: Scored
    base_probe_loss: float | None = None
    """Of the untuned base, on the same probe."""
    champion: ScoredChampion | None = None
    champion_missing: str = ""
    """Why there is none: no champion, or what kept it from being asked."""
    merge: MergeRecord
    eval_rows: int
    leaked_rows: int
    """Evaluation rows that were also found among the training rows."""
    on_leak: Literal["error", "drop", "report"]
    """What was done with them: `drop` took them out of training."""
    answer: str | None = None
    """To the package's input example, as the evaluation saw it; None where it asked for no answer."""
    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions that the scores were made with."""
    gate: GateSettings

    @property
    def forgetting(self) -> float | None:
        """Loss on the probe minus the untuned base's, in nats per token."""
        mine, base = self.scored.probe_loss, self.base_probe_loss
        return None if mine is None or base is None else mine - base
