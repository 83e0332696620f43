"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.methods._rates import rate_between
from tasks.methods._values import NOTHING, MethodInfo, Supplies
from tasks.methods._whole import WholeModelMethod
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn

_HUGE_PARAMETERS = 7_000_000_000


class FullFineTuning(WholeModelMethod):
    """Settings of `full`."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="all weights",
        paper="-",
        holds="model",
        mergeable=False,
        memory="16 N (float32 weights, gradients, two AdamW moments)",
        traps=(
            "pure 16-bit weights lose small updates: they train as float32 masters and are saved in the base's dtype",
        ),
    )

    kind: Literal["full"] = "full"

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        if facts.parameters >= _HUGE_PARAMETERS:
            return 1e-5
        return rate_between(facts, small=3e-3, large=2e-5)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        return model.float().requires_grad_(True)
