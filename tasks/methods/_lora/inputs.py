"""What the base's layers are given on training rows, for the starts of LoRA that follow the data (EVA, CorDA)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tasks.foundation.errors import ConfigError
from tasks.methods._lora.starts import Inputs

Batches = Callable[[], Iterator[dict[str, Tensor]]]

_PASS_BYTES = 2 << 30
"""Most that the sums of one pass over the rows may take; layers beyond that get passes of their own."""
_UNSEEN = -100
"""Label of a token that is not learnt."""


class Rows:
    """The first so many training rows, the same at each pass and on all ranks."""

    def __init__(self, batches: Batches, count: int, answers_only: bool) -> None:
        """`answers_only`: tokens without a label do not count; padding never does."""
        self._batches = batches
        self._count = count
        self._answers_only = answers_only

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Features of a batch, and which of its tokens count: [rows, tokens], bool."""
        left = self._count
        for batch in self._batches():
            features = {name: value[:left] for name, value in batch.items() if name != "labels"}
            counted = features.get("attention_mask", torch.ones_like(features["input_ids"])).bool()
            yield features, counted & (batch["labels"][:left] != _UNSEEN) if self._answers_only else counted
            left -= len(batch["input_ids"])
            if left <= 0:
                return


def inputs_of(
    model: nn.Module, layers: Mapping[str, nn.Module], rows: Rows, where: str
) -> Iterator[tuple[str, Inputs]]:
    """Name and inputs of each layer, in their order; as few layers at a time as fit.

    Raises:
        ConfigError: there are no rows, or a layer is never used on them.
    """
    training = model.training
    model.eval()
    for group in _groups(layers):
        found = _one_pass(model, {name: layers[name] for name in group}, rows)
        if missing := [name for name in group if name not in found]:
            raise ConfigError(
                f"no training row goes through {missing[0]}, and init_lora_weights needs its inputs",
                where=where,
                fix="Raise init_rows, leave the layer out of target_modules, or take another init_lora_weights",
            )
        yield from ((name, found.pop(name)) for name in group)
    model.train(training)


def _groups(layers: Mapping[str, nn.Module]) -> list[list[str]]:
    """Names by pass."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, layer in layers.items():
        size = 4 * _width(layer) ** 2
        if groups[-1] and filled + size > _PASS_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _width(layer: nn.Module) -> int:
    """Inputs of a linear layer, GPT-2's Conv1D ([in, out]) included."""
    return int(getattr(layer, "in_features", layer.weight.shape[0]))


@torch.no_grad()
def _one_pass(model: nn.Module, layers: Mapping[str, nn.Module], rows: Rows) -> dict[str, Inputs]:
    device = next(model.parameters()).device
    found: dict[str, Inputs] = {}
    counted = torch.empty(0)

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_: nn.Module, given: tuple[Any, ...]) -> None:
            _add(found, name, _tokens(given[0], counted))

        return add

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(watch(name)).remove)
        for features, mask in rows:
            counted = mask.to(device)
            model(**{name: value.to(device) for name, value in features.items()})
    return found


def _tokens(given: Tensor, counted: Tensor) -> Tensor:
    """[tokens, in] in float32; an expert is given its tokens already flat, and all of them count."""
    if given.shape[:-1] == counted.shape:
        return given[counted].float()
    return given.reshape(-1, given.shape[-1]).float()


def _add(found: dict[str, Inputs], name: str, tokens: Tensor) -> None:
    if not len(tokens):
        return
    moment, total = tokens.T @ tokens, tokens.sum(0)
    if name in found:
        earlier = found[name]
        moment, total = moment.add_(earlier.moment), total.add_(earlier.total)
    found[name] = Inputs(moment, total, len(tokens) + (found[name].tokens if name in found else 0))
