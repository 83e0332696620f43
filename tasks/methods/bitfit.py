"""BitFit: only the biases train."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.foundation.errors import ConfigError
from tasks.methods._base import INIT_FROM, NOTHING, Conditions, Method, MethodInfo, Supplies
from tasks.methods._own_folder import (
    SavedAdapter,
    adapter_of,
    describe,
    fill,
    read_adapter,
    refuse_source,
    write_adapter,
)
from tasks.methods._rates import rate_between
from tasks.methods._source import Source
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class BitFit(Method):
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
        refuse_source(self, skeleton, supplies)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        from tasks.methods._biases import add_shifts

        if not any(name.endswith(".bias") for name, _ in model.named_parameters()):
            refuse_no_biases(str(model.config.model_type), f"methods[{self.label}]")
        model.requires_grad_(False)
        add_shifts(model, self.modules, f"methods[{self.label}]")
        return model

    def start_from(self, model: nn.Module, source: Source) -> None:
        where = f"methods[{self.label}].{INIT_FROM}"
        saved, tensors = adapter_of(source, model, where)
        if saved.parts != self._description(model).parts:
            raise ConfigError(
                f"{source.reference} has biases of other modules",
                where=where,
                fix="Take the modules of the earlier run, or start anew without init_from",
            )
        fill(model, tensors, where)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write by how much each bias has moved."""
        write_adapter(folder, self._description(model), tensors)

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Add what the folder holds to the base's biases.

        Raises:
            IntegrityError: the folder is incomplete or belongs to another base.
        """
        from tasks.methods._biases import add_shifts

        saved, tensors = read_adapter(folder, base)
        base.requires_grad_(False)
        add_shifts(base, saved.parts["modules"], str(folder))
        fill(base, tensors, str(folder))
        return base.requires_grad_(False).eval()

    def base_alone(self, model: nn.Module) -> AbstractContextManager[None]:
        from tasks.methods._biases import without_shifts

        return without_shifts(model)

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Replace the biases, shard by shard."""
        from tasks.methods._biases import write_shifted

        write_shifted(base, adapter, output, max_shard_bytes)

    def _description(self, model: nn.Module) -> SavedAdapter:
        return describe(self.kind, model, {"modules": sorted(self.modules)})


def refuse_no_biases(model_type: str, where: str) -> None:
    """Raise ConfigError: there is nothing to train."""
    raise ConfigError(
        f"this {model_type} has no biases, so nothing would train",
        where=where,
        allowed="models with biases, for example gpt2, gpt_neox, opt, bloom, phi or qwen2",
        fix="Take {kind: ia3} or {kind: lora, r: 1}, which train as little",
    )
