"""Registration of the winner, and what lets a version into production."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.foundation.values import Settings


class Bounds(Settings):
    """Limits of one metric; at least one of them."""

    min: float | None = None
    """The metric must be at least this."""
    max: float | None = None
    """The metric must be at most this."""

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("neither min nor max is given, so nothing would be checked")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}, so nothing could pass")
        return self


class ChampionRule(Settings):
    """Comparison with the present champion, on the same evaluation rows."""

    require: Literal["better", "not_worse", "nothing"] = "better"
    """`better`: the whole interval of the paired difference lies above `margin`; `not_worse`: above `-margin`;
    `nothing`: no comparison, for example after a change of the evaluation or of the base model."""
    metric: str | None = None
    """Metric to compare, for example `exact_match`; when absent the one that named the winner."""
    margin: float = Field(default=0.0, ge=0)
    """In units of the metric, per row."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Of the two-sided interval."""
    min_rows: int = Field(default=10, ge=2)
    """With fewer rows nothing can be told, and the check does not pass."""


class GateSettings(Settings):
    """What a version must show before it may become the champion. What is missing does not pass."""

    thresholds: dict[str, Bounds] = Field(default_factory=dict)
    """Metric -> limits, for example `{exact_match: {min: 0.8}, loss: {max: 1.2}}`."""
    champion: ChampionRule = ChampionRule()
    """Comparison with the present champion."""
    max_forgetting: float | None = None
    """Loss on the probe minus the untuned base's, in nats per token, at most; wants `evaluation.probe`."""
    max_answer_seconds: float | None = Field(default=None, gt=0)
    """Median time for the input example, loaded as production loads it, on the machine that promotes."""
    max_memory_bytes: int | None = Field(default=None, gt=0)
    """Peak memory of a process that serves the version: of the accelerator where there is one, else resident."""
    answer: Literal["same", "any"] = "same"
    """`same`: the input example is answered as the evaluation saw; `any`: with some text, where the machine that
    promotes computes otherwise than the one that evaluated (another accelerator, another precision)."""
    committed_code: bool = False
    """True: only what was made by committed code passes."""
    approval: Literal["none", "required"] = "none"
    """`required`: a person approves in Prefect's page before the alias moves."""
    approval_hours: float = Field(default=24.0, gt=0, le=24 * 30)
    """Without an answer by then, it is rejected."""


class RegistrySettings(Settings):
    """Section `registry`."""

    model: str | None = None
    """Registered model that gets a new version; without it nothing is registered."""
    metric: str | None = None
    """Metric that names the winner; when absent the first of `evaluation.metrics`."""
    alias: str = "challenger"
    """Alias that moves to the new version."""
    gate: GateSettings = GateSettings()
    """What the version must show before `tuneline promote` makes it the champion."""
