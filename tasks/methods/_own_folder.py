"""The folder of an adapter that PEFT does not know: the same two files, with a schema of our own.

`adapter_config.json` has a `format` and a `version`, and no `peft_type`: PEFT says so at once when it is given one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.foundation.values import Value
from tasks.methods._continue import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tasks.methods._source import Source

if TYPE_CHECKING:
    from torch import Tensor, nn

_AGAIN = "Train the cell again"


class SavedAdapter(Value):
    """adapter_config.json of our own adapters."""

    format: Literal["tuneline-adapter"] = "tuneline-adapter"
    version: Literal[1] = 1
    kind: str
    """Of the method that made it."""
    model_type: str
    """Of the base, as are the two sizes below."""
    hidden_size: int
    num_hidden_layers: int
    parts: dict[str, Any]
    """What the method needs to build its modules again; the tensors' names are those of the built model."""


def describe(kind: str, model: nn.Module, parts: dict[str, Any]) -> SavedAdapter:
    """What a method built into a model of this configuration."""
    config = model.config
    return SavedAdapter(
        kind=kind,
        model_type=str(config.model_type),
        hidden_size=int(config.hidden_size),
        num_hidden_layers=int(config.num_hidden_layers),
        parts=parts,
    )


def write_adapter(folder: Path, saved: SavedAdapter, tensors: Mapping[str, Tensor]) -> None:
    """Write both files into an existing folder; the same tensors give the same bytes.

    Raises:
        IntegrityError: a tensor is empty, as a part of a shared one can be.
    """
    from safetensors.torch import save_file

    ordered = sorted(tensors.items())
    if empty := [name for name, tensor in ordered if not tensor.numel()]:
        raise IntegrityError(f"{empty[0]} is empty", where=str(folder), fix=_AGAIN)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in ordered}
    save_file(whole, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(saved.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def read_adapter(folder: Path, base: nn.Module | None = None) -> tuple[SavedAdapter, dict[str, Tensor]]:
    """Both files of a folder.

    Args:
        folder: as `write_adapter` left it.
        base: what it must fit: a model of the same architecture and size.

    Raises:
        IntegrityError: a file is missing or of another format, or the adapter belongs to another base.
    """
    from safetensors.torch import load_file

    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise IntegrityError(f"{name} is missing", where=str(folder), fix=_AGAIN)
    try:
        saved = SavedAdapter.model_validate_json((folder / ADAPTER_CONFIG).read_bytes())
    except ValidationError as error:
        what = str(error.errors(include_url=False)[0]["msg"])
        raise IntegrityError(f"{ADAPTER_CONFIG} is none of ours: {what}", where=str(folder), fix=_AGAIN) from error
    if base is not None and (found := describe(saved.kind, base, saved.parts)) != saved:
        raise IntegrityError(
            f"the adapter does not fit the base: it is for {_size(saved)}, the base is {_size(found)}",
            where=str(folder),
            fix="Take the base that it was trained on",
        )
    return saved, load_file(folder / ADAPTER_WEIGHTS)


def adapter_of(source: Source, base: nn.Module, where: str) -> tuple[SavedAdapter, dict[str, Tensor]]:
    """An earlier result that a setting named, where it must be one of our own adapters on a base like this one.

    Raises:
        ConfigError: it is something else, or of another base.
        IntegrityError: its files are damaged.
    """
    made_by = f" (made by {source.method['kind']})" if source.method and "kind" in source.method else ""
    config = source.path / ADAPTER_CONFIG
    if source.holds != "adapter" or (config.is_file() and "format" not in _json(config)):
        raise ConfigError(
            f"{source.reference}{made_by} is no adapter of this family", where=where, fix="Name an adapter of this kind"
        )
    try:
        return read_adapter(source.path, base)
    except IntegrityError as error:
        raise ConfigError(f"{source.reference}{made_by}: {error.what}", where=where, fix=error.fix) from error


def fill(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy the tensors into the model's trainable parameters, which must be exactly these, shape by shape.

    Raises:
        IntegrityError: a name is in only one of the two, or a shape differs; nothing has been copied then.
    """
    import torch

    wanted = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if difference := sorted(wanted.keys() ^ tensors.keys()):
        raise IntegrityError(f"the adapter does not fit the base: {difference[0]}", where=where)
    for name, parameter in wanted.items():
        if parameter.shape != tensors[name].shape:
            shapes = f"{list(tensors[name].shape)} in the file, {list(parameter.shape)} in the model"
            raise IntegrityError(f"the adapter does not fit the base: {name} is {shapes}", where=where)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(tensors[name])


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _size(saved: SavedAdapter) -> str:
    return f"{saved.model_type} of {saved.num_hidden_layers} blocks of width {saved.hidden_size}"
