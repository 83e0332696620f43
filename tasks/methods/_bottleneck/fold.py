"""Fold linear Houlsby adapters into the projections that they stand behind, without ever holding the base."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from tasks.methods._bottleneck.blocks import sites_of
from tasks.methods._bottleneck.shape import BottleneckShape
from tasks.methods._own_folder import read_adapter
from tasks.methods._peft_merge import BaseTensors, Change, stored_name, weightless, write_shards


class Folded:
    """One tensor of a projection y = W x + b: what (I + scaling U D) makes of it."""

    def __init__(self, name: str, down: torch.Tensor, up: torch.Tensor, *, width_last: bool) -> None:
        self._name = name
        self._down = down
        self._up = up
        self._width_last = width_last

    def merge(self, tensors: BaseTensors) -> dict[str, torch.Tensor]:
        """Computed in float64 and rounded once, to the stored dtype."""
        stored = tensors.read(self._name)
        width_last = stored.double() if self._width_last else stored.double().T  # [..., d]
        folded = width_last + (width_last @ self._down.double().T) @ self._up.double().T
        merged = folded if self._width_last else folded.T
        return {self._name: merged.to(stored.dtype).contiguous()}


def fold_shards(base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
    """Write base + adapter as `model*.safetensors` (with an index where there is more than one) in the stored dtypes.

    Raises:
        ModelError: a projection is stored under a name that is not the model's own.
        IntegrityError: the adapter does not fit the base.
    """
    model = weightless(base)
    saved, adapters = read_adapter(adapter, model)
    shape = BottleneckShape.model_validate(saved.parts)
    sites = sites_of(saved.model_type, str(adapter))
    tensors = BaseTensors(base)
    prefix = str(getattr(model, "base_model_prefix", ""))
    changes: dict[str, Change] = {}
    for index in shape.layers:
        block = f"{sites.blocks}.{index}"
        for own, site in (("attention", sites.attention_output), ("ffn", sites.ffn_output)):
            down, up = (adapters[f"{block}.adapter.{own}.{side}.weight"] for side in ("down", "up"))
            projection = model.get_submodule(f"{block}.{site}")
            for part, _ in projection.named_parameters():
                name = stored_name(f"{block}.{site}.{part}", prefix, tensors.stored)
                width_last = part == "bias" or isinstance(projection, Conv1D)
                changes[name] = Folded(name, down, up * shape.scaling, width_last=width_last)
    write_shards(tensors, changes, output, max_shard_bytes)
