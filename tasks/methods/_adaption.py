"""LLaMA-Adapter's prompts, as PEFT has them: on which families, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tasks.foundation.errors import ConfigError
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import nn

FAMILIES: Final = ("gpt2", "llama", "mistral")
"""PEFT 0.21.2 knows where query, key and value are in these only."""
_TENSORS: Final = ("adaption_prompt", "adaption_gate")


def refuse_family(facts: BaseModelFacts, where: str) -> None:
    """Raise ConfigError for a base whose attention PEFT does not know."""
    if facts.model_type not in FAMILIES:
        raise ConfigError(
            f"LLaMA-Adapter does not know the attention of {facts.model_type}",
            where=where,
            allowed=f"bases of {', '.join(FAMILIES)}",
            fix="Take {kind: prefix_tuning}, which puts keys and values into every attention",
        )


def compute_in_base_dtype(model: nn.Module) -> None:
    """Let prompts that train in float32 meet a 16-bit base: cast on the way in, as other adapters do."""
    for module in model.modules():
        if "adaption_prompt" in getattr(module, "_parameters", {}):
            weight = next(module.model.parameters())
            if weight.is_floating_point() and weight.dtype != module.adaption_prompt.dtype:
                module.register_forward_pre_hook(_cast, with_kwargs=True)
                module.register_forward_hook(_put_back, with_kwargs=True, always_call=True)


def _cast(module: Any, args: Any, kwargs: Any) -> None:
    module.kept_in_float32 = {name: module._parameters.pop(name) for name in _TENSORS}
    dtype = next(module.model.parameters()).dtype
    for name, tensor in module.kept_in_float32.items():
        object.__setattr__(module, name, tensor.to(dtype))


def _put_back(module: Any, args: Any, kwargs: Any, output: Any) -> None:
    for name, tensor in module.kept_in_float32.items():
        object.__delattr__(module, name)
        module._parameters[name] = tensor
    del module.kept_in_float32
