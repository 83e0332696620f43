"""LoRA, with DoRA, rsLoRA, LoRA+ and every start: a low-rank update beside frozen linear layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.methods._lora.method import LowRankMethod
from tasks.methods._values import MethodInfo


class Lora(LowRankMethod):
    """Settings of `lora`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="W + (alpha/r) BA on linear layers",
        paper="2106.09685",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n = r (in + out) per layer (DoRA: + out)",
        quantized_base=True,
        traps=(
            "adapt all linear layers, not attention only",
            "the best rate is about ten times that of full fine-tuning",
            "a tied output layer cannot carry an adapter",
            "PiSSA, OLoRA and CorDA are saved with twice the rank: what they took out of the base is a part of them",
            "a LoftQ adapter belongs to the quantised base and is never merged",
        ),
    )

    kind: Literal["lora"] = "lora"
