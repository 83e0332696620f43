"""LLaMA-Adapter: prompts in the top blocks, attended to apart, behind a gate that opens from zero."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tasks.foundation.errors import ConfigError
from tasks.methods._adaption import FAMILIES, compute_in_base_dtype, refuse_family
from tasks.methods._peft import PeftMethod
from tasks.methods._rates import rate_between
from tasks.methods._values import NOTHING, Conditions, MethodInfo, Supplies
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_OF_32_BLOCKS = 30
"""The paper adapts the top 30 of LLaMA's 32 blocks."""
_UNTRIED = "it is not tried where ranks share the weights"


class LlamaAdapter(PeftMethod):
    """Settings of `llama_adapter`, under PEFT's own names (ADAPTION_PROMPT).

    Attn'(x) = Attn(x) + g softmax(q K_p^T / sqrt(d_h)) V_p with K_p, V_p from the prompt through the base's own
    projections; g = 0 at first, so training starts at the base itself.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="K prompts in each of the top blocks, with a gate per block",
        paper="2303.16199",
        holds="adapter",
        mergeable=False,
        memory="b N + 16 n, b bytes per base weight, n = L_top (K d + 1)",
        quantized_base=True,
        refuses={"zero3": _UNTRIED, "fsdp2": _UNTRIED},
        families=", ".join(FAMILIES),
        traps=("the gate opens slowly: it needs a high rate or many steps",),
    )

    kind: Literal["llama_adapter"] = "llama_adapter"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`: a decay would close the gate."""
    adapter_len: int = Field(default=10, gt=0)
    """Prompts in each block that is adapted; they take no room in the context."""
    adapter_layers: int | None = Field(default=None, gt=0)
    """Blocks that are adapted, counted from the top; 30 of every 32, as in the paper, when absent."""

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """5e-3 is what PEFT's own suite found for Llama-3.2-3B (5e-4 there: .212 instead of .384)."""
        return rate_between(facts, small=0.1, large=5e-3)

    def unmergeable(self) -> str:
        return "its prompts are attended to apart and behind a gate, which no weight of the base can do"

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        where, depth = f"methods[{self.label}]", facts.num_hidden_layers
        refuse_family(facts, where)
        if self.adapter_layers is not None and self.adapter_layers > depth:
            raise ConfigError(
                f"adapter_layers: {self.adapter_layers} is over the model's {depth} blocks",
                where=where,
                allowed=f"1 to {depth}",
                fix="Lower it, or leave it out",
            )

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import AdaptionPromptConfig

        depth = int(model.config.num_hidden_layers)
        return AdaptionPromptConfig(
            task_type="CAUSAL_LM",
            adapter_len=self.adapter_len,
            adapter_layers=self.adapter_layers or max(1, round(depth * _OF_32_BLOCKS / 32)),
        )

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        attached = super().attach(model, supplies)
        compute_in_base_dtype(attached)
        return attached

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        loaded = super().load(base, folder)
        compute_in_base_dtype(loaded)
        return loaded
