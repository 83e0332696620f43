"""QLoRA: LoRA beside a base that is held in 4 bits while it trains."""

from __future__ import annotations

from typing import ClassVar, Literal

from tasks.methods._lora.method import LowRankMethod
from tasks.methods._values import MethodInfo
from tasks.models.values import Quantization


class QLora(LowRankMethod):
    """Settings of `qlora`, under PEFT's and bitsandbytes' own names.

    The base keeps its own dtype outside the quantised layers: nothing is cast up (norms compute in float32 inside,
    and a float32 copy of a large embedding would cost what 4 bits saved); the adapter is float32.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="LoRA on an nf4 base",
        paper="2305.14314",
        holds="adapter",
        mergeable=True,
        memory="0.5 N (weights of linear layers) + 16 n",
        quantized_base=True,
        traps=(
            "merged into the float base, never into the quantised one",
            "use training.optim: paged_adamw_8bit on a GPU that is short of memory",
        ),
    )

    kind: Literal["qlora"] = "qlora"
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """4-bit data type."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the scales as well: 0.37 bits less per weight."""

    def quantization(self) -> Quantization:
        return Quantization(bits=4, quant_type=self.bnb_4bit_quant_type, double_quant=self.bnb_4bit_use_double_quant)
