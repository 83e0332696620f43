"""Prefix tuning: virtual keys and values in front of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.methods._prompts import PromptMethod, refuse_checkpointing
from tasks.methods._rates import rate_between
from tasks.methods._values import Conditions, MethodInfo
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PrefixTuning(PromptMethod):
    """Settings of `prefix_tuning`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="keys and values of P virtual tokens in front of every layer",
        paper="2101.00190",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n, b bytes per base weight, n = 2 P L d_kv (with projection: P d + d h + 2 L d_kv h)",
        gradient_checkpointing=False,
        quantized_base=True,
        traps=(
            "needs the key-value cache: no gradient checkpointing",
            "the projection is not saved: what goes on from a saved prefix is prefix_projection: false, or p_tuning_v2",
            "virtual tokens count against the context",
        ),
    )

    kind: Literal["prefix_tuning"] = "prefix_tuning"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`."""
    prefix_projection: bool = True
    """Train the prefix through an MLP, as the paper does; without it the rate must be far higher."""
    encoder_hidden_size: int | None = Field(default=None, gt=0)
    """Width of that MLP; the model's hidden size when absent."""

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        if self.prefix_projection:
            return rate_between(facts, small=3e-2, large=1e-3)
        return rate_between(facts, small=0.3, large=5e-3)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        refuse_checkpointing("prefix tuning", conditions, f"methods[{self.label}]")

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size,
        )
