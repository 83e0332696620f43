"""LoRA, with DoRA and rsLoRA: a low-rank update beside frozen linear layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.methods._base import MethodInfo
from tasks.methods._lora import LowRankMethod


class Lora(LowRankMethod):
    """Settings of `lora`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="W + (alpha/r) BA on linear layers",
        paper="2106.09685",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n = r (in + out) per layer (DoRA: + out)",
        traps=(
            "adapt all linear layers, not attention only",
            "the best rate is about ten times that of full fine-tuning",
            "a tied output layer cannot carry an adapter",
        ),
    )

    kind: Literal["lora"] = "lora"
