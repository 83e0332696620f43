"""P-tuning v2: keys and values of virtual tokens in every layer, learned as they are."""

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


class PTuningV2(PromptMethod):
    """Settings of `p_tuning_v2`, under PEFT's own names (PREFIX_TUNING without projection).

    Deep prompts without the MLP that prefix tuning trains them through: fewer parameters, a far higher rate, and what
    is saved can be trained on.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="keys and values of P virtual tokens in front of every layer, without an MLP",
        paper="2110.07602",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n, b bytes per base weight, n = 2 P L d_kv",
        gradient_checkpointing=False,
        quantized_base=True,
        traps=(
            "needs the key-value cache: no gradient checkpointing",
            "virtual tokens count against the context",
        ),
    )

    kind: Literal["p_tuning_v2"] = "p_tuning_v2"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`."""

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """5e-3 is what PEFT's own suite found for Llama-3.2-3B (1e-3 there: .186 instead of .416)."""
        return rate_between(facts, small=0.3, large=5e-3)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        refuse_checkpointing("P-tuning v2", conditions, f"methods[{self.label}]")

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=self.num_virtual_tokens, prefix_projection=False
        )
