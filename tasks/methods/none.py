"""The untuned base: the zero line of every comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method, MethodInfo
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class NoTuning(Method):
    """Settings of `none`."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="nothing",
        paper="-",
        holds="nothing",
        mergeable=False,
        memory="0",
        quantized_base=True,
    )

    kind: Literal["none"] = "none"

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """No step is ever taken."""
        return 0.0

    def attach(self, model: nn.Module) -> nn.Module:
        raise ConfigError("nothing would train", where=f"methods[{self.label}]", fix="Evaluate it without training")

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Nothing was made."""

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        return base.requires_grad_(False).eval()
