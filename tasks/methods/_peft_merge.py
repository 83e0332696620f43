"""Merge a PEFT adapter into its float base, layer by layer, without ever holding the base.

The base's skeleton has the right shapes and no memory behind them; the adapter on it is real. One layer's weights at
a time are read from the base's shards, PEFT's own `merge` computes, and the result goes into the next output shard.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tasks.foundation.errors import ModelError
from tasks.foundation.faults import reach
from tasks.methods._peft import PeftMethod
from tasks.models import StoredTensor, read_header, weight_files
from tasks.models.skeleton import skeleton
from tasks.models.weights import INDEX_FILE, SINGLE_FILE

_WRAPPER = "base_model.model."


class BaseTensors:
    """The base's stored tensors by name, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of: dict[str, str] = {}
        self.stored: dict[str, StoredTensor] = {}
        for file in weight_files(folder):
            header = read_header(folder / file)
            self.stored.update(header)
            self._file_of.update(dict.fromkeys(header, file))

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored dtype, in memory of its own."""
        with safe_open(self._folder / self._file_of[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor


class Change(Protocol):
    """What becomes of some of the base's stored tensors."""

    def merge(self, tensors: BaseTensors) -> dict[str, torch.Tensor]:
        """Stored name -> merged tensor in its stored dtype, of all that belong together."""


class AdaptedLayer:
    """A layer with an adapter, whose base weights come from the files and go back merged."""

    def __init__(self, layer: BaseTunerLayer, stored_names: Mapping[str, str]) -> None:
        self._layer = layer
        self.stored_names = stored_names
        """Parameter of the base layer (`weight`, `bias`) -> name in the files."""

    def merge(self, tensors: BaseTensors) -> dict[str, torch.Tensor]:
        """Stored name -> merged tensor in its stored dtype. 16-bit weights are merged in float32 and rounded once."""
        base = self._layer.get_base_layer()
        dtypes = {}
        for parameter, name in self.stored_names.items():
            tensor = tensors.read(name)
            dtypes[parameter] = tensor.dtype
            exact = torch.promote_types(tensor.dtype, torch.float32)
            setattr(base, parameter, nn.Parameter(tensor.to(exact), requires_grad=False))
        self._layer.merge()
        base = self._layer.get_base_layer()  # another one where the adapter is a whole layer
        merged = {}
        for parameter, name in self.stored_names.items():
            weight = getattr(base, parameter).data
            merged[name] = weight.to(dtypes[parameter]).contiguous()
            setattr(base, parameter, _without_memory(weight))
        return merged


def merge_shards(method: PeftMethod, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
    """Write base + adapter as `model*.safetensors` (with an index where there is more than one) in the stored dtypes.

    Raises:
        ModelError: an adapted layer's weight is stored under a name that is not the model's own.
        IntegrityError: the adapter does not fit the base.
    """
    tensors = BaseTensors(base)
    write_shards(
        tensors, _adapted_layers(method.load(method.merge_skeleton(base), adapter), tensors), output, max_shard_bytes
    )


def write_shards(tensors: BaseTensors, changes: Mapping[str, Change], output: Path, max_shard_bytes: int) -> None:
    """Write the base's tensors with the changes, one shard in memory at a time.

    Args:
        tensors: of the base.
        changes: stored name -> what becomes of it; the others are copied.
        output: an existing folder.
        max_shard_bytes: of a file, unless one tensor alone is larger.
    """
    plan = plan_shards(tensors.stored, max_shard_bytes)
    ready: dict[str, torch.Tensor] = {}
    for file, names in plan.items():
        for name in names:
            if name in changes and name not in ready:
                ready.update(changes[name].merge(tensors))
            elif name not in changes:
                ready[name] = tensors.read(name)
        reach("merge.shard")
        save_file({name: ready.pop(name) for name in names}, output / file, metadata={"format": "pt"})
    if len(plan) > 1:
        _write_index(plan, tensors.stored, output)


def plan_shards(stored: Mapping[str, StoredTensor], max_shard_bytes: int) -> dict[str, list[str]]:
    """File name -> tensor names in the base's order; no file over `max_shard_bytes` unless one tensor alone is."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, tensor in stored.items():
        if groups[-1] and filled + tensor.size_bytes > max_shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += tensor.size_bytes
    if len(groups) == 1:
        return {SINGLE_FILE: groups[0]}
    return {f"model-{at:05d}-of-{len(groups):05d}.safetensors": names for at, names in enumerate(groups, start=1)}


def weightless(base: Path) -> nn.Module:
    """The base's architecture on CPU in float32, where every weight is one zero, expanded to its shape."""
    model = skeleton(base)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _without_memory(parameter))
    return model


def _without_memory(like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(torch.zeros(()).expand(like.shape), requires_grad=False)


def _adapted_layers(model: nn.Module, tensors: BaseTensors) -> dict[str, AdaptedLayer]:
    """Stored name -> the layer that it belongs to, for every weight and bias of every layer with an adapter."""
    prefix = str(getattr(model.get_base_model(), "base_model_prefix", ""))
    found: dict[str, AdaptedLayer] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and not getattr(module, "tied_adapter", None):
            own = name.removeprefix(_WRAPPER)
            parameters = dict(module.get_base_layer().named_parameters())
            stored = {part: stored_name(f"{own}.{part}", prefix, tensors.stored) for part in parameters}
            layer = AdaptedLayer(module, stored)
            found.update(dict.fromkeys(stored.values(), layer))
    return found


def stored_name(parameter: str, prefix: str, stored: Mapping[str, StoredTensor]) -> str:
    """The name in the files; some checkpoints leave out the backbone's prefix (`transformer.h.0…` as `h.0…`)."""
    for name in (parameter, parameter.removeprefix(f"{prefix}.")):
        if name in stored:
            return name
    raise ModelError(
        f"the base's files hold no {parameter}: this architecture stores its weights in another form than it uses",
        where="merge",
        fix="Set merge.enabled: false and go on with base + adapter",
    )


def _write_index(plan: Mapping[str, list[str]], stored: Mapping[str, StoredTensor], output: Path) -> None:
    index = {
        "metadata": {"total_size": sum(tensor.size_bytes for tensor in stored.values())},
        "weight_map": {name: file for file, names in plan.items() for name in names},
    }
    (output / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
