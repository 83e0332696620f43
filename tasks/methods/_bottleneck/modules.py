"""The modules of bottleneck adapters, and how they hang on a model of any family in the table of blocks.

Nothing of the base is replaced or renamed: each block gets one more child, `adapter`, that forward hooks on the block's
own layers call. So base weights stay as they are (float, 4 or 8 bits), engines that share weights gather an adapter's
with its block, or when it is called, and a block that is computed again for gradient checkpointing calls it again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from tasks.methods._bottleneck.blocks import BlockSites, blocks_of, sites_of
from tasks.methods._bottleneck.shape import BottleneckShape, NonLinearity

Init = Literal["paper", "identity"]

_FUNCTIONS: Mapping[NonLinearity, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "identity": nn.Identity,
}
_HOULSBY_STD = 0.01
_PFEIFFER_STD = 0.02


class Making(NamedTuple):
    """What matters only while an adapter is made and trained."""

    dropout: float = 0.0
    init: Init = "paper"


PLAIN = Making()


class Bottleneck(nn.Module):  # type: ignore[misc]
    """A(z) = scaling (W_up dropout(s(W_down z + b_down)) + b_up): [..., d] -> [..., d] in z's dtype.

    Held and computed in float32 (less where autocast or an engine's mixed precision says so).
    """

    def __init__(self, width: int, shape: BottleneckShape, making: Making = PLAIN) -> None:
        super().__init__()
        self.down = nn.Linear(width, shape.size, bias=shape.bias, dtype=torch.float32)
        self.up = nn.Linear(shape.size, width, bias=shape.bias, dtype=torch.float32)
        self.function = _FUNCTIONS[shape.non_linearity]()
        self.dropout = nn.Dropout(making.dropout)
        self.scaling = shape.scaling
        _start(self, shape, making.init)

    def forward(self, z: Tensor) -> Tensor:
        hidden = self.function(self.down(z.to(self.down.weight.dtype)))
        out: Tensor = self.up(self.dropout(hidden)) * self.scaling
        return out.to(z.dtype)


def _start(bottleneck: Bottleneck, shape: BottleneckShape, init: Init) -> None:
    """Each variant as its paper has it; `identity` zeroes W_up on top, so that the first step sees the plain base."""
    down, up = bottleneck.down.weight, bottleneck.up.weight
    if shape.variant == "houlsby":
        for weight in (down, up):
            nn.init.trunc_normal_(weight, std=_HOULSBY_STD, a=-2 * _HOULSBY_STD, b=2 * _HOULSBY_STD)
    elif shape.variant == "pfeiffer":
        for weight in (down, up):
            nn.init.normal_(weight, std=_PFEIFFER_STD)
    else:
        nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        nn.init.zeros_(up)
    if init == "identity":
        nn.init.zeros_(up)
    if shape.bias:
        nn.init.zeros_(bottleneck.down.bias)
        nn.init.zeros_(bottleneck.up.bias)


class TrainedNorm(nn.Module):  # type: ignore[misc]
    """A float32 copy of one of the base's layer norms, whose output takes the place of the original's."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = copy.deepcopy(norm).float().requires_grad_(True)
        self.off = False

    def instead(self, norm: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook on the original."""
        return output if self.off else self.norm(*given).to(output.dtype)


class LayerAdapter(nn.Module):  # type: ignore[misc]
    """What one block has beside its own weights. Its methods are forward hooks on the block's own modules."""

    def __init__(self, index: int, width: int, shape: BottleneckShape, making: Making) -> None:
        super().__init__()
        self.index = index
        if shape.variant == "houlsby":
            self.attention = Bottleneck(width, shape, making)
        self.ffn = Bottleneck(width, shape, making)
        self.norms = nn.ModuleDict()
        self.left_out = False
        """This adapter does nothing in evaluation."""
        self.drawn_out = False
        """This adapter does nothing in the current training step."""
        self._input: Tensor | None = None

    def after_attention(self, projection: nn.Module, given: tuple[Tensor, ...], a: Tensor) -> Tensor:
        """Houlsby: a + A1(a)."""
        return self._added(self.attention, a, a)

    def after_ffn(self, projection: nn.Module, given: tuple[Tensor, ...], f: Tensor) -> Tensor:
        """Houlsby: f + A2(f)."""
        return self._added(self.ffn, f, f)

    def after_block(self, block: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """Pfeiffer: s + A(s)."""
        return with_first(output, lambda s: self._added(self.ffn, s, s))

    def keep_input(self, projection: nn.Module, given: tuple[Tensor, ...]) -> None:
        """Parallel: u, before the feed-forward network."""
        self._input = given[0]

    def beside_ffn(self, projection: nn.Module, given: tuple[Tensor, ...], f: Tensor) -> Tensor:
        """Parallel: MLP(u) + s A(u)."""
        u, self._input = self._input, None
        return self._added(self.ffn, u, f)

    def _added(self, bottleneck: Bottleneck, z: Tensor, y: Tensor) -> Tensor:
        """y + A(z), or y alone.

        In training an adapter that was drawn out adds zero times its answer to one position, without a gradient to z:
        each of its tensors then has a gradient (of zeros) on every rank, as engines that add gradients up expect.
        """
        if not (self.drawn_out if self.training else self.left_out):
            return y + bottleneck(z)
        return y + 0.0 * bottleneck(z[..., :1, :].detach()) if self.training else y


def with_first(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A block's output with its hidden states changed; some blocks give back attention weights behind them."""
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def inject(model: nn.Module, shape: BottleneckShape, making: Making, where: str) -> None:
    """Hang an adapter on each block that `shape` names. Its parameters have requires_grad, float32, on the device of
    their block; the rest of the model is left as it is. Drawn on the CPU, so that all devices start alike.
    """
    blocks, sites = blocks_of(model, where), sites_of(str(model.config.model_type), where)
    for index in shape.layers:
        adapter = LayerAdapter(index, int(model.config.hidden_size), shape, making)
        if shape.layer_norms:
            _take_norms(blocks[index], adapter)
        blocks[index].add_module("adapter", adapter.to(device_of(blocks[index])))
        adapter.train(blocks[index].training)
        _hang(blocks[index], sites, adapter, shape)


def _take_norms(block: nn.Module, adapter: LayerAdapter) -> None:
    for name, child in block.named_children():
        if type(child).__name__.lower().endswith("norm"):
            trained = TrainedNorm(child)
            adapter.norms[name] = trained
            child.register_forward_hook(trained.instead)


def _hang(block: nn.Module, sites: BlockSites, adapter: LayerAdapter, shape: BottleneckShape) -> None:
    if shape.variant == "pfeiffer":
        block.register_forward_hook(adapter.after_block)
        return
    ffn = block.get_submodule(sites.ffn_output)
    if shape.variant == "houlsby":
        block.get_submodule(sites.attention_output).register_forward_hook(adapter.after_attention)
        ffn.register_forward_hook(adapter.after_ffn)
    else:
        block.get_submodule(sites.ffn_input).register_forward_pre_hook(adapter.keep_input)
        ffn.register_forward_hook(adapter.beside_ffn)


def device_of(block: nn.Module) -> torch.device:
    """Where a block's own weights lie."""
    return next(block.parameters()).device


def adapters_in(model: nn.Module) -> Iterator[LayerAdapter]:
    """All adapters of a model, whatever engines have wrapped around it."""
    return (module for module in model.modules() if isinstance(module, LayerAdapter))


def switch(model: nn.Module, *, off: bool) -> None:
    """Leave the adapters out, or take them in again, in evaluation."""
    for adapter in adapters_in(model):
        adapter.left_out = off
        for norm in adapter.norms.values():
            norm.off = off
