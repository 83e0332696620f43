"""IA3: learned vectors scale keys, values and the feed-forward's inner activations."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._peft import PeftMethod
from tasks.methods._rates import rate_between
from tasks.methods._targets import Targets, matches, refuse_tied_head, short_names, target_layers
from tasks.methods._values import MethodInfo
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

_OURS = {
    "glm": ("k_proj", "v_proj", "down_proj"),
    "glm4": ("k_proj", "v_proj", "down_proj"),
    "phi3": ("qkv_proj", "down_proj"),
}
"""Architecture that PEFT's table leaves out -> keys, values (where they share a layer, that layer, as PEFT does it for
GPT-2) and, last, the feed-forward's."""


class IA3(PeftMethod):
    """Settings of `ia3`, under PEFT's own names."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="scaling vectors on k, v and the feed-forward",
        paper="2205.05638",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n = L (2 d_kv + d_ff)",
        quantized_base=True,
        traps=("feedforward_modules must be among target_modules", "no weight decay: it would pull the scales to 0"),
    )

    kind: Literal["ia3"] = "ia3"
    weight_decay: float | None = Field(default=0.0, ge=0)
    """Wins over `training.weight_decay`: the vectors start at 1, a decay would pull them to 0."""
    target_modules: Targets | None = None
    """Layers whose output is scaled; when absent PEFT's choice for the architecture."""
    feedforward_modules: tuple[str, ...] | None = None
    """Those of the targets whose input is scaled; when absent PEFT's choice for the architecture."""

    @model_validator(mode="after")
    def _subset(self) -> IA3:
        named = isinstance(self.target_modules, tuple) and self.feedforward_modules
        if named and (beyond := sorted(set(self.feedforward_modules or ()) - set(self.target_modules or ()))):
            raise ValueError(f"feedforward_modules: {beyond[0]} is not among target_modules")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=0.1, large=5e-3)

    def peft_config(self, model: nn.Module) -> PeftConfig:
        from peft import IA3Config

        where = f"methods[{self.label}]"
        targets = self.target_modules or _usual(model, "IA3_TARGET", where)
        layers = target_layers(model, targets, where)
        refuse_tied_head(model, layers, where)
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets if isinstance(targets, str) else list(targets),
            feedforward_modules=list(self._feedforward(model, layers, where)),
        )

    def _feedforward(self, model: nn.Module, layers: dict[str, nn.Module], where: str) -> tuple[str, ...]:
        names = short_names(layers)
        if self.feedforward_modules is None:
            return self._usual_feedforward(model, layers, where)
        if beyond := [name for name in self.feedforward_modules if not any(full.endswith(name) for full in layers)]:
            raise ConfigError(
                f"feedforward_modules: {beyond[0]} is not among the targets", where=where, allowed=", ".join(names)
            )
        return self.feedforward_modules

    def _usual_feedforward(self, model: nn.Module, layers: dict[str, nn.Module], where: str) -> tuple[str, ...]:
        """PEFT's choice, as far as it is among the targets, in the words of the targets: PEFT wants those."""
        usual = _usual(model, "IA3_FEEDFORWARD", where)
        inner = [name for name in layers if any(matches(name, pattern, False) for pattern in usual)]
        if isinstance(self.target_modules, str):
            return usual if inner else ()
        targets = self.target_modules or _usual(model, "IA3_TARGET", where)
        of_target = {target: {name for name in layers if matches(name, target, False)} for target in targets}
        return tuple(target for target, named in of_target.items() if named and named <= set(inner))


def _usual(model: nn.Module, table: Literal["IA3_TARGET", "IA3_FEEDFORWARD"], where: str) -> tuple[str, ...]:
    """PEFT's choice of layers for the architecture, or ours where it has none."""
    from peft.utils import constants

    known: dict[str, list[str]] = getattr(constants, f"TRANSFORMERS_MODELS_TO_{table}_MODULES_MAPPING")
    kind = str(model.config.model_type)
    if kind in known:
        return tuple(known[kind])
    if kind in _OURS:
        return _OURS[kind] if table == "IA3_TARGET" else _OURS[kind][-1:]
    raise ConfigError(
        f"neither PEFT nor tuneline has usual IA3 layers for {kind}",
        where=where,
        fix="Set target_modules and feedforward_modules",
    )
