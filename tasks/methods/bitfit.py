"""BitFit: only the biases train."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tasks.foundation.errors import ConfigError
from tasks.methods._own import OwnAdapter
from tasks.methods._rates import rate_between
from tasks.methods._values import NOTHING, Conditions, MethodInfo, Supplies
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn


class BitFit(OwnAdapter):
    """Settings of `bitfit`. What trains, and is saved, is how far each bias has moved, in float32."""

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="the biases of linear layers and layer norms",
        paper="2106.10199",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n = all biases",
        quantized_base=True,
        families="all with biases (not Llama, Mistral, Gemma, Qwen3, Phi-3)",
        traps=("most newer models have no biases: refused, not trained with 0 parameters",),
    )

    kind: Literal["bitfit"] = "bitfit"
    modules: tuple[str, ...] = ()
    """Modules whose bias trains, by full name or its last parts (`q_proj`, `mlp.c_fc`); all when empty."""

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return rate_between(facts, small=3e-2, large=1e-3)

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        if facts.bias_parameters == 0:
            refuse_no_biases(facts.model_type, f"methods[{self.label}]")

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        from tasks.methods._biases import biased_modules

        biased_modules(skeleton, self.modules, f"methods[{self.label}]")
        super().check_modules(skeleton, supplies)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        from tasks.methods._biases import add_shifts

        if not any(name.endswith(".bias") for name, _ in model.named_parameters()):
            refuse_no_biases(str(model.config.model_type), f"methods[{self.label}]")
        model.requires_grad_(False)
        add_shifts(model, self.modules, f"methods[{self.label}]")
        return model

    def parts(self, model: nn.Module) -> dict[str, Any]:
        return {"modules": sorted(self.modules)}

    def build(self, base: nn.Module, parts: Mapping[str, Any], where: str) -> None:
        from tasks.methods._biases import add_shifts

        add_shifts(base, parts["modules"], where)

    def base_alone(self, model: nn.Module) -> AbstractContextManager[None]:
        from tasks.methods._biases import without_shifts

        return without_shifts(model)

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Replace the biases, shard by shard."""
        from tasks.methods._biases import write_shifted

        write_shifted(base, adapter, output, max_shard_bytes)


def refuse_no_biases(model_type: str, where: str) -> None:
    """Raise ConfigError: there is nothing to train."""
    raise ConfigError(
        f"this {model_type} has no biases, so nothing would train",
        where=where,
        allowed="models with biases, for example gpt2, gpt_neox, opt, bloom, phi or qwen2",
        fix="Take {kind: ia3} or {kind: lora, r: 1}, which train as little",
    )
