"""Give LoRA a start that follows from the base: find it, fit PEFT's configuration to it, put it in, and take it out.

A start that takes a part out of the base trains as what is saved: [B, -B0] [A; A0] beside the untouched base, of which
only A and B train. No weight of the base is written to, so nothing is lost to rounding where these have 16 bits, and
dropout never reaches what the base computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from transformers.pytorch_utils import Conv1D

from tasks.foundation.errors import ConfigError
from tasks.methods._lora.inputs import Rows, inputs_of
from tasks.methods._lora.starts import (
    Directions,
    Inputs,
    Start,
    corda,
    is_quantized,
    loftq,
    olora,
    pissa,
    principal_directions,
    share_ranks,
    weight_of,
)
from tasks.methods._peft_merge import BaseTensors, stored_name
from tasks.methods._targets import smaller_side
from tasks.methods._values import Supplies

if TYPE_CHECKING:
    from tasks.methods._lora.method import LowRankMethod

_OWN = "default"
"""PEFT's name of the adapter."""
_HALF = ".parametrizations.weight.original"
"""What torch puts behind the name of a layer whose weight is made from another."""
_WRAPPER = "base_model.model."
_ROWS, _RHO = 256, 2.0
"""Of `init_rows` and `rho` where they are absent; rho is PEFT's."""

Layers = Mapping[str, nn.Module]
Starts = dict[str, Start]
"""By the layer's name in the base; one without rows leaves its layer without an adapter."""


def find(method: LowRankMethod, model: nn.Module, layers: Layers, supplies: Supplies) -> Starts:
    """The start of each layer, before anything is attached; a layer that is not named keeps PEFT's.

    Raises:
        ConfigError: a start that follows the data has too few rows.
    """
    kinds = {"pissa": _pissa, "olora": _olora, "loftq": _loftq}
    if method.start in kinds:
        return kinds[method.start](method, model, layers)
    rows = Rows(supplies.batches, method.init_rows or _ROWS, answers_only=method.start == "eva")
    inputs = inputs_of(model, layers, rows, f"methods[{method.label}]")
    if method.start == "eva":
        return _eva(method, layers, {name: _directions(method, layers[name], given) for name, given in inputs})
    return {name: corda(weight_of(layers[name]), method.r, method.scale, given) for name, given in inputs}


def fitted(config: LoraConfig, starts: Starts, scale: float) -> LoraConfig:
    """The configuration with the ranks of the starts; every layer keeps the one scale."""
    kept = {name: len(start.a) for name, start in starts.items() if len(start.a)}
    if len(kept) < len(starts):
        config.target_modules, config.layers_to_transform = set(kept), None
    config.rank_pattern = {name: rank for name, rank in kept.items() if rank != config.r}
    config.alpha_pattern = {
        name: scale * (math.sqrt(rank) if config.use_rslora else rank) for name, rank in config.rank_pattern.items()
    }
    return config


@torch.no_grad()
def put(model: nn.Module, starts: Starts) -> None:
    """Copy the starts into the attached model; DoRA's magnitudes are those of the weights that it now begins with."""
    for name, start in starts.items():
        if not len(start.a):
            continue
        layer = model.get_submodule(f"{_WRAPPER}{name}")
        a, b = layer.lora_A[_OWN].weight, layer.lora_B[_OWN].weight
        a.copy_(start.a)
        b.copy_(start.b)
        if _OWN in layer.lora_magnitude_vector:
            whole = weight_of(layer.get_base_layer()).float() + layer.scaling[_OWN] * (b @ a)
            layer.lora_magnitude_vector[_OWN].weight.copy_(whole.norm(dim=1))


class Beside(nn.Module):  # type: ignore[misc]
    """A parametrisation: the trained half of a matrix, and beside it the start, which stays."""

    start: Tensor

    def __init__(self, start: Tensor, dim: int) -> None:
        super().__init__()
        self.register_buffer("start", start)
        self.dim = dim

    def forward(self, own: Tensor) -> Tensor:
        """The whole matrix, as PEFT sees it."""
        return torch.cat([own, self.start], dim=self.dim)

    def right_inverse(self, whole: Tensor) -> Tensor:
        """The trained half."""
        return whole.narrow(self.dim, 0, whole.shape[self.dim] // 2).contiguous()


def doubled(config: LoraConfig, scale: float) -> LoraConfig:
    """The configuration with twice the rank and the same scale."""
    config.r, config.use_rslora = 2 * config.r, False
    config.lora_alpha = alpha_of(scale, config.r)
    return config


def take_out(model: nn.Module, starts: Starts) -> None:
    """Put A and B at the start, and subtract the start for good: until the first step the model computes as its base.

    Args:
        model: with an adapter of twice the rank.
    """
    for name, start in starts.items():
        layer = model.get_submodule(f"{_WRAPPER}{name}")
        for matrix, own, sign, dim in ((layer.lora_A, start.a, 1, 0), (layer.lora_B, start.b, -1, 1)):
            linear = matrix[_OWN]
            own = own.to(linear.weight.device)
            linear.weight.data = torch.cat([own, sign * own], dim=dim)
            register_parametrization(linear, "weight", Beside(sign * own.clone(), dim), unsafe=True)


def as_plain_lora(model: nn.Module, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What trained with what stayed beside it, under the names of a LoRA that knows of neither."""
    plain = {}
    for name, tensor in trained.items():
        linear = name.removesuffix(_HALF)
        beside = model.get_submodule(f"{linear}.parametrizations.weight.0")
        plain[f"{linear}.weight"] = torch.cat([tensor, beside.start.to(tensor.device)], dim=beside.dim)
    return plain


def taken_out(model: nn.Module) -> dict[str, Tensor]:
    """The starts by the full names of their buffers."""
    return {f"{name}.start": module.start for name, module in model.named_modules() if isinstance(module, Beside)}


def take_up(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors of `taken_out` back: a run that goes on subtracts what it began with, to the bit."""
    for name, tensor in tensors.items():
        model.get_buffer(name).copy_(tensor)


def alpha_of(scale: float, rank: int) -> float:
    """The lora_alpha with which lora_alpha / rank is `scale` again; to float32's last bit where no float64 is exact."""
    alpha = scale * rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, 0.0))
    return next((value for value in near if value / rank == scale), alpha)


def _pissa(method: LowRankMethod, model: nn.Module, layers: Layers) -> Starts:
    rounds = str(method.init_lora_weights).partition("_niter_")[2]
    return {
        name: pissa(weight_of(layer), method.r, method.scale, int(rounds) if rounds else None)
        for name, layer in layers.items()
    }


def _olora(method: LowRankMethod, model: nn.Module, layers: Layers) -> Starts:
    return {name: olora(weight_of(layer), method.r) for name, layer in layers.items()}


def _loftq(method: LowRankMethod, model: nn.Module, layers: Layers) -> Starts:
    """Against the base's files; a layer that is not quantised has lost nothing."""
    tensors = BaseTensors(Path(model.name_or_path))
    prefix = str(getattr(model, "base_model_prefix", ""))
    found = {}
    for name, layer in layers.items():
        if is_quantized(layer):
            held = weight_of(layer)
            whole = tensors.read(stored_name(f"{name}.weight", prefix, tensors.stored)).to(held.device)
            turned = issubclass(getattr(layer, "source_cls", nn.Linear), Conv1D)
            found[name] = loftq(whole.T if turned else whole, held, method.r, method.scale)
    return found


def _directions(method: LowRankMethod, layer: nn.Module, inputs: Inputs) -> Directions:
    if inputs.tokens < method.r:
        rows = method.init_rows or _ROWS
        raise ConfigError(
            f"init_lora_weights: eva finds {inputs.tokens} answer tokens in {rows} rows for r: {method.r}",
            where=f"methods[{method.label}]",
            fix="Raise init_rows, or lower r",
        )
    return principal_directions(inputs, min(round(method.r * (method.rho or _RHO)), smaller_side(layer)))


def _eva(method: LowRankMethod, layers: Layers, found: dict[str, Directions]) -> Starts:
    ranks = share_ranks(found, method.r * len(found))
    starts = {}
    for name, directions in found.items():
        rows = directions.rows[: ranks[name]]
        starts[name] = Start(rows, rows.new_zeros(_outputs(layers[name]), len(rows)))
    return starts


def _outputs(layer: nn.Module) -> int:
    return int(getattr(layer, "out_features", layer.weight.shape[-1]))
