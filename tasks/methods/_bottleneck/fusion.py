"""The modules of AdapterFusion: one block's frozen adapters, and the attention that composes their answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tasks.methods._bottleneck.blocks import blocks_of, sites_of
from tasks.methods._bottleneck.modules import Bottleneck, device_of, with_first
from tasks.methods._bottleneck.shape import BottleneckShape

_STD = 0.02


class FusionShape(NamedTuple):
    """Q, K of [d, rank] (d where that is absent), and whether there is a V."""

    rank: int | None
    value: bool


class Fusion(nn.Module):  # type: ignore[misc]
    """softmax_n((h Q)^T (z_n K)) over the adapters, and the sum of z_n V under these weights.

    Q and K start at N(0, 0.02), V at the identity: as a matrix of [d, d], or of low rank as I + V_down V_up with
    V_up = 0. The scores are not divided by sqrt(d).
    """

    def __init__(self, width: int, shape: FusionShape) -> None:
        super().__init__()
        inner = shape.rank or width
        self.query = nn.Parameter(torch.empty(width, inner).normal_(std=_STD))
        self.key = nn.Parameter(torch.empty(width, inner).normal_(std=_STD))
        self.value: nn.Parameter | None = None
        self.value_down: nn.Parameter | None = None
        self.value_up: nn.Parameter | None = None
        if shape.value and shape.rank:
            self.value_down = nn.Parameter(torch.empty(width, shape.rank).normal_(std=_STD))
            self.value_up = nn.Parameter(torch.zeros(shape.rank, width))
        elif shape.value:
            self.value = nn.Parameter(torch.eye(width))
        self.distance: Tensor | None = None
        """||V - I||^2 of the last pass with gradients."""
        self.weights: Any = None
        """[adapters, rows, tokens] of the last pass without."""

    def forward(self, h: Tensor, z: Tensor) -> Tensor:
        """h: [rows, tokens, d]; z: [adapters, rows, tokens, d]; gives [rows, tokens, d] in z's dtype."""
        distance = self._distance()  # first, so that the backward pass meets it while V is gathered
        asked, offered = h.to(self.query.dtype), z.to(self.query.dtype)
        scores = ((asked @ self.query) * (offered @ self.key)).sum(-1)
        weights = scores.softmax(0)
        composed = self._valued((weights.unsqueeze(-1) * offered).sum(0))  # sum_n s_n (z_n V) = (sum_n s_n z_n) V
        if torch.is_grad_enabled():
            self.distance = distance
        else:
            self.weights = weights
        return composed.to(z.dtype)

    def _valued(self, z: Tensor) -> Tensor:
        if self.value is not None:
            return z @ self.value
        if self.value_down is not None and self.value_up is not None:
            return z + (z @ self.value_down) @ self.value_up
        return z

    def _distance(self) -> Tensor | None:
        if self.value is not None:
            identity = torch.eye(len(self.value), dtype=self.value.dtype, device=self.value.device)
            return (self.value - identity).float().square().sum()
        if self.value_down is not None and self.value_up is not None:
            return (self.value_down @ self.value_up).float().square().sum()
        return None


class FusedBlock(nn.Module):  # type: ignore[misc]
    """What one block has beside its own weights. Its methods are forward hooks on the block's own modules."""

    def __init__(self, index: int, adapters: Iterable[Bottleneck], attention: Fusion) -> None:
        super().__init__()
        self.index = index
        self.adapters = nn.ModuleList(adapters)
        self.attention = attention
        self._ffn: Any = None

    def keep_ffn(self, projection: nn.Module, given: tuple[Tensor, ...], h: Tensor) -> None:
        """h, the answer of the feed-forward network: what the attention asks with."""
        self._ffn = h

    def after_block(self, block: nn.Module, given: tuple[Any, ...], output: Any) -> Any:
        """s + o, s the block's output."""
        return with_first(output, self._fused)

    def _fused(self, s: Tensor) -> Tensor:
        h, self._ffn = self._ffn, None
        answers = torch.stack([adapter(s) for adapter in self.adapters])
        composed: Tensor = self.attention(
            h.reshape(s.shape), answers
        )  # some blocks flatten rows and tokens for their FFN
        return s + composed


class TaskAdapter(NamedTuple):
    """A frozen adapter with a weight for each of its tensors, by the block's number and the name within it."""

    shape: BottleneckShape
    tensors: Mapping[tuple[int, str], Tensor]


def fuse(model: nn.Module, adapters: Sequence[TaskAdapter], shape: FusionShape, where: str) -> None:
    """Hang adapters and attention on each block that the adapters have. Only Q, K and V have requires_grad."""
    blocks, sites = blocks_of(model, where), sites_of(str(model.config.model_type), where)
    width = int(model.config.hidden_size)
    for index in adapters[0].shape.layers:
        fused = FusedBlock(index, (_frozen(adapter, index, width) for adapter in adapters), Fusion(width, shape))
        blocks[index].add_module("fusion", fused.to(device_of(blocks[index])))
        fused.train(blocks[index].training)
        blocks[index].get_submodule(sites.ffn_output).register_forward_hook(fused.keep_ffn)
        blocks[index].register_forward_hook(fused.after_block)


def _frozen(adapter: TaskAdapter, index: int, width: int) -> Bottleneck:
    bottleneck = Bottleneck(width, adapter.shape)
    bottleneck.load_state_dict({name: part for (block, name), part in adapter.tensors.items() if block == index})
    bottleneck.requires_grad_(False)
    return bottleneck


def fused_in(model: nn.Module) -> Iterator[FusedBlock]:
    """All fused blocks of a model, whatever engines have wrapped around it."""
    return (module for module in model.modules() if isinstance(module, FusedBlock))


def distance_of(model: nn.Module) -> Tensor:
    """The sum of ||V - I||^2 over the blocks, of the pass that has just been made; each is handed out once."""
    found = []
    for block in fused_in(model):
        if block.attention.distance is not None:
            found.append(block.attention.distance)
            block.attention.distance = None
    return torch.stack(found).sum()


def attention_map(model: nn.Module, batches: Iterable[Mapping[str, Tensor]], adapters: int) -> dict[int, list[float]]:
    """Block -> mean weight of each adapter over all real tokens of the batches; those of a block add up to 1."""
    blocks = list(fused_in(model))
    sums = {block.index: torch.zeros(adapters, dtype=torch.float64) for block in blocks}
    tokens = 0
    device = next(model.parameters()).device
    for batch in batches:
        features = {name: value.to(device) for name, value in batch.items() if name != "labels"}
        mask = features.get("attention_mask", torch.ones_like(features["input_ids"])).bool()
        with torch.no_grad():
            model(**features)
        tokens += int(mask.sum())
        for block in blocks:
            weights, block.attention.weights = block.attention.weights, None
            sums[block.index] += weights.double()[:, mask].sum(1).cpu()
    return {index: (total / max(tokens, 1)).tolist() for index, total in sums.items()}
