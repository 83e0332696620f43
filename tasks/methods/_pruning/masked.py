"""A frozen weight with a low-rank update and a mask over both: what recovers stays exactly as sparse."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

_ORIGINAL = ".parametrizations.weight.original"


class MaskedUpdate(nn.Module):  # type: ignore[misc]
    """Parametrization of a weight: (W + s B A) * M, in float32 and rounded once to W's dtype.

    A in R^{r x columns} starts Kaiming uniform, B in R^{rows x r} at 0, of the weight as it is stored (GPT-2 stores
    the transpose); both float32.

    Args:
        weight: W [rows, columns], which stays frozen.
        mask: M, bool like W; None where nothing of W is masked.
        r: rank of the update.
        scale: s.
    """

    mask: Tensor | None

    def __init__(self, weight: Tensor, mask: Tensor | None, r: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = scale
        self.lora_A = nn.Parameter(torch.empty(r, columns, dtype=torch.float32, device=weight.device))
        self.lora_B = nn.Parameter(torch.zeros(rows, r, dtype=torch.float32, device=weight.device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return effective(weight, (self.lora_A, self.lora_B), self.mask, self.scale)


def effective(weight: Tensor, factors: tuple[Tensor, Tensor], mask: Tensor | None, scale: float) -> Tensor:
    """(W + s B A) * M in W's dtype."""
    down, up = factors
    with torch.autocast(weight.device.type, enabled=False):  # as `dense` computes what is saved
        whole = weight.float() + scale * (up @ down)
        return (whole if mask is None else torch.where(mask, whole, 0.0)).to(weight.dtype)


def add_updates(layers: Mapping[str, nn.Module], masks: Mapping[str, Tensor], r: int, scale: float) -> None:
    """Give each layer its update, under its mask where there is one."""
    for name, layer in layers.items():
        weight = layer.weight
        update = MaskedUpdate(weight, masks.get(name), r, scale)
        parametrize.register_parametrization(layer, "weight", update)


def dense(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A model's whole tensors by name, with every update folded into its weight; nothing else of it stays."""
    found = {name: tensor for name, tensor in tensors.items() if ".parametrizations." not in name}
    for name in tensors:
        if name.endswith(_ORIGINAL):
            layer, update = name.removesuffix(_ORIGINAL), f"{name.removesuffix('.original')}.0"
            factors = (tensors[f"{update}.lora_A"], tensors[f"{update}.lora_B"])
            found[f"{layer}.weight"] = effective(tensors[name], factors, tensors.get(f"{update}.mask"), scale)
    return found


def layer_masks(layers: Mapping[str, nn.Module], amount: float) -> dict[str, Tensor]:
    """In each layer the share `amount` of smallest magnitude goes, by torch's own L1Unstructured: True stays."""
    return {name: _smallest_out(layer.weight.detach(), amount) for name, layer in layers.items()}


def global_masks(layers: Mapping[str, nn.Module], amount: float) -> dict[str, Tensor]:
    """Over all layers together the share `amount` of smallest magnitude goes: some layers lose more than others."""
    weights = {name: layer.weight.detach() for name, layer in layers.items()}
    kept = _smallest_out(torch.cat([weight.reshape(-1) for weight in weights.values()]), amount)
    parts = kept.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight).clone() for (name, weight), part in zip(weights.items(), parts, strict=True)}


def _smallest_out(weight: Tensor, amount: float) -> Tensor:
    ones = torch.ones_like(weight)
    return prune.L1Unstructured(amount).compute_mask(weight, ones).bool()


def sparsity(layers: Mapping[str, nn.Module]) -> dict[str, float]:
    """Share of zeros in each layer's weight, and in all of them together (`all`)."""
    zeros = {name: int((layer.weight == 0).sum()) for name, layer in layers.items()}
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    return {name: zeros[name] / sizes[name] for name in layers} | {"all": sum(zeros.values()) / sum(sizes.values())}
