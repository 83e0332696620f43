"""An earlier result in a folder: an adapter, a whole model, or an artifact with one of them in it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import ModelError
from tasks.methods import ADAPTER_CONFIG, Source, adapter_files
from tasks.models import BaseModel, ModelSettings, read_header, resolve_base, weight_files
from tasks.models.weights import INDEX_FILE, SINGLE_FILE, read_json
from tasks.training.recipe import read_recipe

REFERENCES = "a run id (32 hex digits), models:/NAME/VERSION, models:/NAME@ALIAS, HUB/ID@REVISION, or a folder"
"""What may stand where an earlier result is named."""
_INSIDE = ("adapter", "model")
"""Where a `train` artifact, or a registered package, keeps its weights."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")


class Weights(NamedTuple):
    """Where the weights lie, and what they are."""

    folder: Path
    holds: Literal["adapter", "model"]


def look_into(folder: Path, where: str) -> Weights:
    """Find the weights in a folder and read their headers; nothing is digested.

    Raises:
        ModelError: there is no folder, neither an adapter nor a model in it, or no whole safetensors.
    """
    if not folder.is_dir():
        raise _missing(folder, where)
    found = _weights_in(folder) or next(filter(None, (_weights_in(folder / name) for name in _INSIDE)), None)
    if found is None:
        raise ModelError(
            f"{folder} holds neither an adapter nor a model",
            where=where,
            allowed="adapter_config.json or config.json in it, or in its folder adapter or model",
            fix="Name the folder that training, save_pretrained or a registered package left",
        )
    names = weight_files(found.folder) if found.holds == "model" else _adapter_weights(found.folder, where)
    for name in names:
        read_header(found.folder / name)
    return found


def source_in(folder: Path, reference: str, where: str, base: BaseModel) -> Source:
    """The source that a folder holds, digested. A whole model is held as the base is (dtype, kernels, quantisation).

    Raises:
        ModelError: see `look_into`, or a whole model that could not be a base.
    """
    weights, holds = look_into(folder.expanduser(), where)
    weights = weights.resolve()
    recipe = read_recipe(weights.parent)
    method, base_digest = (recipe.method, recipe.base_digest) if recipe else (None, "")
    if holds == "model":
        model = resolve_base(ModelSettings(name_or_path=reference), weights)
        model = model.model_copy(update=base.model_dump(include={"dtype", "attn_implementation"}))
        model = model.model_copy(update={"quantization": base.quantization})
        return Source(
            reference=reference, path=model.path, digest=model.digest, holds="model", method=method, model=model
        )
    read_json(weights / ADAPTER_CONFIG)
    return Source(
        reference=reference,
        path=weights,
        digest=digest_tree(weights, adapter_files(weights)),
        holds="adapter",
        method=method,
        base_digest=base_digest,
    )


def _weights_in(folder: Path) -> Weights | None:
    whole = any((folder / name).is_file() for name in (SINGLE_FILE, INDEX_FILE))
    if (folder / ADAPTER_CONFIG).is_file() and not whole:
        return Weights(folder, "adapter")
    return Weights(folder, "model") if (folder / "config.json").is_file() else None


def _adapter_weights(folder: Path, where: str) -> tuple[str, ...]:
    names = tuple(name for name in adapter_files(folder) if name.endswith(".safetensors"))
    if names:
        return names
    if pickled := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"the adapter in {folder} is pickled ({pickled[0]}): loading it can run code",
            where=where,
            allowed="safetensors only",
            fix="Save it again with save_pretrained, which writes safetensors",
        )
    raise ModelError(f"the adapter in {folder} has no weights", where=where, fix="Complete the folder")


def _missing(folder: Path, where: str) -> ModelError:
    siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
    close = difflib.get_close_matches(folder.name, siblings, n=1)
    fix = f"Did you mean {folder.parent / close[0]}?" if close else "Check it (paths begin at the working directory)"
    if len(folder.parts) == 2 and not folder.is_absolute() and not close:
        fix += ", or write a hub id with its commit: HUB/ID@<40 hex digits>"
    problem = "is not a folder" if folder.exists() else "does not exist"
    return ModelError(f"{folder} {problem}", where=where, allowed=REFERENCES, fix=fix)
