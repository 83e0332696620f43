"""Biases that train beside a base that stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.foundation.errors import ConfigError
from tasks.methods._continue import ADAPTER_WEIGHTS
from tasks.methods._peft_merge import BaseTensors, Change, stored_name, weightless, write_shards
from tasks.methods._targets import matches, short_names

SHIFT = ".bias_shift.value"
"""How the name of what trains ends; before it stands the module's name."""


class BiasShift(nn.Module):  # type: ignore[misc]
    """What training has added to one bias: [width], float32, zero at first.

    y = W x + b gives y + shift, which is W x + (b + shift): gradient and function are those of training b itself, but b
    may stay in 16 bits, beside quantised weights, or shared among ranks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(width))
        self.off = False

    def forward(self, y: Tensor) -> Tensor:
        return y + self.value.to(y.dtype)

    def after(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook on the module that has the bias."""
        if self.off:
            return output
        shifted: Tensor = self(output)
        return shifted


def add_shifts(model: nn.Module, names: Sequence[str], where: str) -> None:
    """Hang a shift on each module with a bias, or on those of them that `names` gives (in full, or the last parts).

    Raises:
        ConfigError: there is no such bias, or it is added otherwise than to the module's output.
    """
    for name, module in biased_modules(model, names, where).items():
        shift = BiasShift(_width(name, module, where)).to(module.bias.device)
        module.add_module("bias_shift", shift.train(module.training))
        module.register_forward_hook(shift.after)


def biased_modules(model: nn.Module, names: Sequence[str], where: str) -> dict[str, nn.Module]:
    """Full name -> module with a bias, of all or of those that `names` gives (in full, or the last parts).

    Raises:
        ConfigError: there is no such bias.
    """
    owners = {name: module for name, module in model.named_modules() if _has_bias(module)}
    for pattern in names:
        if not any(matches(name, pattern, False) for name in owners):
            raise ConfigError(
                f"modules: {pattern!r} matches no module with a bias",
                where=where,
                allowed=", ".join(short_names(owners)),
                fix="Name modules that this model has",
            )
    return {
        name: module
        for name, module in owners.items()
        if not names or any(matches(name, pattern, False) for pattern in names)
    }


def _has_bias(module: nn.Module) -> bool:
    return isinstance(getattr(module, "bias", None), nn.Parameter)


def _width(name: str, module: nn.Module, where: str) -> int:
    from transformers.pytorch_utils import Conv1D

    if not isinstance(module, nn.Linear | Conv1D | nn.LayerNorm):
        raise ConfigError(
            f"{name} is a {type(module).__name__}, of which it is not known how it adds its bias",
            where=where,
            allowed="biases of linear layers and layer norms",
            fix="Name others in modules",
        )
    return int(getattr(module.bias, "ds_numel", module.bias.numel()))


@contextmanager
def without_shifts(model: nn.Module) -> Iterator[None]:
    """The base's own biases while it is open."""
    shifts = [module for module in model.modules() if isinstance(module, BiasShift)]
    for shift in shifts:
        shift.off = True
    try:
        yield
    finally:
        for shift in shifts:
            shift.off = False


class ShiftedBias:
    """One stored bias and what is added to it."""

    def __init__(self, name: str, shift: Tensor) -> None:
        self._name = name
        self._shift = shift

    def merge(self, tensors: BaseTensors) -> dict[str, Tensor]:
        """Added in float32 at least, and rounded once."""
        stored = tensors.read(self._name)
        exact = torch.promote_types(stored.dtype, torch.float32)
        return {self._name: (stored.to(exact) + self._shift.to(exact)).to(stored.dtype)}


def write_shifted(base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
    """Write the base with its biases replaced, shard by shard.

    Raises:
        ModelError: a bias is stored under a name that is not the model's own.
    """
    tensors = BaseTensors(base)
    prefix = str(getattr(weightless(base), "base_model_prefix", ""))
    changes: dict[str, Change] = {}
    for name, shift in load_file(adapter / ADAPTER_WEIGHTS).items():
        stored = stored_name(f"{name.removesuffix(SHIFT)}.bias", prefix, tensors.stored)
        changes[stored] = ShiftedBias(stored, shift)
    write_shards(tensors, changes, output, max_shard_bytes)
