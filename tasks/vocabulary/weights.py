"""The rows of the vocabulary in the base's files: everything else is copied byte for byte."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tasks.models.facts import embedding_name, head_names
from tasks.models.values import BaseModel
from tasks.models.weights import INDEX_FILE, StoredTensor, read_header, read_json, weight_files


class VocabularyTensors(NamedTuple):
    """Stored names of what has one row per token."""

    embedding: str
    head: str
    """Empty where the output layer is the embedding itself."""
    bias: str
    """Of the output layer; empty where it has none."""

    @property
    def grown(self) -> tuple[str, ...]:
        return tuple(filter(None, self))


def vocabulary_tensors(base: BaseModel) -> VocabularyTensors:
    """What of the stored tensors belongs to tokens."""
    stored = _stored(base.path)
    embedding = embedding_name(base.path, stored)
    rows = stored[embedding].shape[0]
    heads = [name for name in head_names(stored) if stored[name].shape[0] == rows]
    bias = f"{heads[0].removesuffix('.weight')}.bias" if heads else ""
    tied = base.facts.tie_word_embeddings
    return VocabularyTensors(embedding, heads[0] if heads and not tied else "", bias if bias in stored else "")


def _stored(folder: Path) -> dict[str, StoredTensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in read_header(folder / file).items()}


def write_extended(base: BaseModel, parts: Sequence[Sequence[int]], first: int, folder: Path) -> None:
    """The base's weights with rows for new tokens at `first` and behind it, each the mean of the rows of its parts.

    Rows beyond the tokens that a checkpoint has are taken first; more are appended, as many as it needs. A tied output
    layer that was stored beside its embedding is left out: it is one tensor.
    """
    names = vocabulary_tensors(base)
    doubles = [name for name in head_names(_stored(base.path)) if base.facts.tie_word_embeddings]
    sizes: dict[str, int] = {}
    for file in weight_files(base.path):
        header = read_header(base.path / file)
        if not {*names.grown, *doubles} & set(header):
            shutil.copyfile(base.path / file, folder / file)
        else:
            tensors = _read(base.path / file)
            for name in set(names.grown) & set(header):
                tensors[name] = _with_rows(tensors[name], parts, first)
            kept = {name: tensors[name] for name in header if name not in doubles}
            save_file(kept, folder / file, metadata={"format": "pt"})
        sizes |= {name: tensor.size_bytes for name, tensor in read_header(folder / file).items()}
    if (base.path / INDEX_FILE).is_file():
        index = read_json(base.path / INDEX_FILE)
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if name in sizes}
        index["metadata"] = {**index.get("metadata", {}), "total_size": sum(sizes.values())}
        _write_json(folder / INDEX_FILE, index)
    config = read_json(base.path / "config.json")
    rows = max(base.facts.vocab_size, first + len(parts))
    _write_json(folder / "config.json", config | {"vocab_size": rows})


def write_rows(folder: Path, rows: Mapping[str, torch.Tensor], first: int) -> None:
    """Put trained rows ([new tokens, hidden], by stored name) in their places, rounded to the stored dtype."""
    for file in weight_files(folder):
        here = set(rows) & set(read_header(folder / file))
        if here:
            tensors = _read(folder / file)
            for name in here:
                tensors[name][first : first + len(rows[name])] = rows[name].to(tensors[name].dtype)
            save_file(tensors, folder / file, metadata={"format": "pt"})


def _read(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in read_header(path)}


def _with_rows(tensor: torch.Tensor, parts: Sequence[Sequence[int]], first: int) -> torch.Tensor:
    """[rows, …] -> [at least first + new, …]; means are taken in float32."""
    grown = torch.zeros(max(len(tensor), first + len(parts)), *tensor.shape[1:], dtype=tensor.dtype)
    grown[: len(tensor)] = tensor
    everything = tensor[:first].float().mean(0)
    for at, ids in enumerate(parts):
        grown[first + at] = tensor[list(ids)].float().mean(0) if ids else everything
    return grown


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
