"""Which linear layers of a base an adapter goes on, found before PEFT would guess or fall silent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tasks.foundation.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"
Targets = str | tuple[str, ...]
"""`all-linear`, a regular expression over full module names, or names (full, or the last parts)."""


def target_layers(model: nn.Module, targets: Targets, where: str) -> dict[str, nn.Module]:
    """Full name -> linear layer that `targets` names; the output layer only when it is named.

    Raises:
        ConfigError: a target matches nothing, or tied embeddings would come apart.
    """
    linear = linear_layers(model)
    if targets == ALL_LINEAR:
        head = model.get_output_embeddings()
        return {name: layer for name, layer in linear.items() if layer is not head}
    patterns = [targets] if isinstance(targets, str) else list(targets)
    for pattern in patterns:
        if not any(matches(name, pattern, isinstance(targets, str)) for name in linear):
            raise ConfigError(
                f"target_modules: {pattern!r} matches no linear layer",
                where=where,
                allowed=f"{ALL_LINEAR}, or some of {', '.join(short_names(linear))}",
                fix="Name layers that this model has",
            )
    return {
        name: layer
        for name, layer in linear.items()
        if any(matches(name, pattern, isinstance(targets, str)) for pattern in patterns)
    }


def refuse_tied_head(model: nn.Module, layers: dict[str, nn.Module], where: str) -> None:
    """An adapter on a tied output layer unties it: after a merge the reloaded model would be garbage."""
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    for name, layer in layers.items():
        if tied and layer is model.get_output_embeddings():
            raise ConfigError(
                f"target_modules: {name} shares its weight with the input embedding (tied), an adapter would part them",
                where=where,
                fix="Leave it out of target_modules",
            )


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Full name -> layer, of all linear layers (quantised ones and GPT-2's Conv1D included)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}


def smaller_side(layer: nn.Module) -> int:
    """The smaller of a linear layer's two sizes (a quantised weight's own shape says nothing)."""
    sides = (layer.in_features, layer.out_features) if hasattr(layer, "in_features") else layer.weight.shape
    return int(min(sides))


def short_names(names: Iterable[str]) -> list[str]:
    """Last parts of full names, each once, sorted."""
    return sorted({name.rpartition(".")[2] for name in names})


def module_names(model: nn.Module, patterns: Sequence[str], where: str) -> list[str]:
    """Full names of the modules with parameters that the names (full, or the last parts) select.

    Raises:
        ConfigError: a name selects nothing.
    """
    owners = [name for name, module in model.named_modules() if name and next(module.parameters(), None) is not None]
    for pattern in patterns:
        if not any(matches(name, pattern, False) for name in owners):
            raise ConfigError(
                f"modules: {pattern!r} matches no module with weights",
                where=where,
                allowed=", ".join(short_names(owners)),
                fix="Name modules that this model has",
            )
    return [name for name in owners if any(matches(name, pattern, False) for pattern in patterns)]


def matches(name: str, pattern: str, is_regex: bool) -> bool:
    """PEFT's own rule: a string is a regular expression over the whole name, list items are names or their ends."""
    if is_regex:
        return re.fullmatch(pattern, name) is not None
    return name == pattern or name.endswith(f".{pattern}")
