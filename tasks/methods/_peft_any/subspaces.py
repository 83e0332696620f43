"""AdaMSS's allocation of subspaces (`use_asa`), so that a run with checkpoints can go through it.

PEFT puts a subspace to sleep with `requires_grad = False`. Which tensors train would then change while they train, and
no checkpoint could be taken up. Here a sleeping tensor stays among the trainable ones, and after each optimiser step it
is put back to the value with which it fell asleep: the model computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_ADAPTER = "default"
_IMPORTANCE = ("exp_avg_ipt_A", "exp_avg_unc_A", "exp_avg_ipt_B", "exp_avg_unc_B")
_ASLEEP = "subspaces_asleep"
"""Attribute of a layer: index of each sleeping subspace -> its two values."""


def move_subspaces(tuner: Any, step: int) -> None:
    """Average the importance and, where the schedule says so, let the least important subspaces sleep for good."""
    layers = [layer for _, layer in _layers(tuner)]
    for layer in layers:
        for index, values in getattr(layer, _ASLEEP, {}).items():
            for part, value in zip(_sides(layer, index), values, strict=True):
                part.data.copy_(value)
                part.grad = None  # or its importance would count again
    tuner.update_and_allocate(step)
    for layer in layers:
        for index in range(len(layer.adamss_A[_ADAPTER])):
            sides = _sides(layer, index)
            if not sides[0].requires_grad:
                _put_to_sleep(layer, index)
            for part in sides:
                part.requires_grad_(True)


def subspace_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name -> averaged importance of each subspace, and per layer which of them sleep."""
    import torch

    for name, layer in _layers(model):
        for kind in _IMPORTANCE:
            found = enumerate(getattr(layer, kind).get(_ADAPTER, ()))
            yield from ((f"{kind}/{name}/{index}", tensor) for index, tensor in found if tensor is not None)
        if asleep := sorted(getattr(layer, _ASLEEP, {})):
            yield f"asleep/{name}", torch.tensor(asleep)


def restore_subspaces(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Take up what `subspace_state` gave; the trainable tensors are there already."""
    layers = dict(_layers(model))
    for key, tensor in tensors.items():
        kind, _, place = key.partition("/")
        if kind == "asleep":
            for index in tensor.tolist():
                _put_to_sleep(layers[place], index)
        else:
            name, _, index = place.rpartition("/")
            device = _sides(layers[name], int(index))[0].device
            getattr(layers[name], kind)[_ADAPTER][int(index)] = tensor.to(device)


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, part) for name, part in model.named_modules() if hasattr(part, "exp_avg_ipt_A"))


def _sides(layer: Any, index: int) -> tuple[nn.Parameter, nn.Parameter]:
    return layer.adamss_A[_ADAPTER][index], layer.adamss_B[_ADAPTER][index]


def _put_to_sleep(layer: Any, index: int) -> None:
    asleep = getattr(layer, _ASLEEP, None)
    if asleep is None:
        asleep = {}
        setattr(layer, _ASLEEP, asleep)
    asleep.setdefault(index, tuple(part.detach().clone() for part in _sides(layer, index)))
