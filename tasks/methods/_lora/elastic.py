"""Sizes of one elastic LoRA adapter: a rank and a depth, given to an attached model without touching a weight."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.methods._lora.sizes import Size

_HELD = "_elastic"
_BLOCK = re.compile(r"\.(\d+)\.")
"""The first number in a layer's full name is that of its block, in every architecture."""


class Elastic:
    """Which size a model has: one while it trains, one in eval mode.

    Args:
        largest: all that there is; the size in both modes at first.
    """

    def __init__(self, largest: Size) -> None:
        self.largest = largest
        self.training = largest
        self.serving = largest

    def narrow(self, module: nn.Module, activation: Tensor, below_top: int) -> Tensor:
        """A x [..., r] with zeros from rank k on, or everywhere in a block that lies too deep.

        What is left out is multiplied by zero instead of cut off: every tensor keeps a gradient, if only of zeros, so
        engines that wait for all gradients of a step go on.
        """
        size = self.training if module.training else self.serving
        if size == self.largest:
            return activation
        carried = size.depth is None or below_top < size.depth
        kept = torch.arange(activation.shape[-1], device=activation.device) < (size.rank if carried else 0)
        return activation * kept


def make_elastic(model: nn.Module, largest: Size, blocks: int) -> Elastic:
    """Let every LoRA layer of a PEFT model heed one size, and hold it by the model."""
    elastic = Elastic(largest)
    for name, module in model.named_modules():
        if name.endswith(".lora_A.default"):
            found = _BLOCK.search(name)
            module.register_forward_hook(_narrowing(elastic, blocks - 1 - int(found.group(1)) if found else 0))
    vars(model)[_HELD] = elastic
    return elastic


def _narrowing(elastic: Elastic, below_top: int) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def narrow(module: nn.Module, _: object, output: Tensor) -> Tensor:
        return elastic.narrow(module, output, below_top)

    return narrow


def elastic_of(model: nn.Module) -> Elastic:
    """The sizes of an attached or loaded model, whatever an engine puts around it."""
    while _HELD not in vars(model):
        model = model.module
    found: Elastic = vars(model)[_HELD]
    return found
