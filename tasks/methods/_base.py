"""The one shape of every fine-tuning method: settings, facts for the reader, and a few hooks.

A method is one public file in this package with one class below `Method` (or `PeftMethod`). torch, transformers and
peft are imported inside the hooks only: the command line validates experiments without them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from tasks.foundation.values import Settings, Value
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

Holds = Literal["nothing", "adapter", "model"]


class MethodInfo(Value):
    """What `tuneline methods` and the documentation say of a method."""

    trains: str
    """What trains, in words."""
    paper: str
    """arXiv id, or `-`."""
    holds: Holds
    """What training leaves: nothing, an adapter folder, or a whole model."""
    mergeable: bool
    """Whether the result can become a plain model of the base's architecture."""
    memory: str
    """Bytes beside the forward pass, as a formula in N (all parameters), n (trainable), d, L, r, T."""
    gradient_checkpointing: bool = True
    quantized_base: bool = False
    refuses: Mapping[str, str] = {}
    """Engine (`zero1`, `zero2`, `zero3`, `fsdp2`, …) -> why this method cannot train under it."""
    families: str = "all"
    traps: tuple[str, ...] = ()


class Conditions(Value):
    """What a method may have to refuse, known before any weight is loaded."""

    gradient_checkpointing: bool
    packing: bool
    max_seq_length: int
    """Tokens; virtual tokens come on top and count against the model's context."""


class Quantization(Value):
    """How the base is quantised while the method trains. The libraries' own defaults are never used."""

    bits: Literal[4, 8]
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double_quant: bool = True


class Method(Settings):
    """Settings of one method and its hooks; the hooks do nothing unusual by default."""

    info: ClassVar[MethodInfo]

    kind: str
    name: str | None = None
    """Name in tables; the kind when absent."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Wins over `training.learning_rate`; when both are absent the method's default for the model's size."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Wins over `training.weight_decay`."""
    max_steps: int | None = Field(default=None, gt=0)
    """Wins over `training.max_steps`: soft prompts want two to five times the steps."""

    @property
    def label(self) -> str:
        return self.name or self.kind

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """A rate that suits the method at this size (sources: docs/methods.md)."""
        raise NotImplementedError(f"{type(self).__name__} has no default learning rate")

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        """Refuse what cannot work, before the model is loaded.

        Raises:
            ConfigError: with the reason and the way out.
        """

    def quantization(self) -> Quantization | None:
        """How the base must be loaded for training; None leaves it in its float dtype."""
        return None

    def attach(self, model: nn.Module) -> nn.Module:
        """Make the model trainable by this method. Seeds are set before; exactly what should train has requires_grad.

        Raises:
            ConfigError: nothing would train.
        """
        raise NotImplementedError

    def parameter_groups(
        self, model: nn.Module, learning_rate: float, weight_decay: float
    ) -> list[dict[str, Any]] | None:
        """Optimiser groups where one rate for all is wrong; None takes the Trainer's own."""
        return None

    def after_optimizer_step(self, model: nn.Module, step: int) -> None:
        """Runs after each optimiser step, before the gradients are cleared (AdaLoRA's budget lives here)."""

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write what training made into an existing empty folder, as safetensors and JSON only.

        Args:
            model: what trained; under some engines this process holds but a part of each of its tensors.
            folder: exists and is empty.
            tensors: full name -> the whole tensor on the CPU: all that trained, and where `info.holds` is `model`
                every parameter and persistent buffer.
        """
        raise NotImplementedError

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Put what `save` wrote on a freshly loaded base, ready for inference."""
        raise NotImplementedError

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Write the merged weights, shard by shard, as `model*.safetensors` (+ index) into `output`.

        Only called where `info.mergeable` and `info.holds == "adapter"`.
        """
        raise NotImplementedError
