"""What config.json and the weights' headers say of a model, whatever the architecture calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.foundation.errors import ModelError
from tasks.models.values import BaseModelFacts
from tasks.models.weights import FLOAT_DTYPES, StoredTensor, read_header, weight_files

_NAMES = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_hidden_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx"),
}
_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
UNBOUNDED_CONTEXT = 2**31 - 1
"""`max_position_embeddings` of models that state no limit (ALiBi)."""


def read_facts(path: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> BaseModelFacts:
    """Facts of the model in `path`.

    Raises:
        ModelError: a size is missing, the weights are not float, or the embedding contradicts the configuration.
    """
    embedding = embedding_name(path, tensors)
    heads = head_names(tensors)
    tied = bool(config.get("tie_word_embeddings", not heads))
    rows = tensors[embedding].shape[0]
    if rows != config.get("vocab_size", rows):
        raise ModelError(
            f"{embedding} has {rows} rows, config.json says vocab_size {config['vocab_size']}",
            where=str(path),
            fix="Take weights and config.json from the same revision",
        )
    counted = [stored for name, stored in tensors.items() if not (tied and name in heads)]
    return BaseModelFacts(
        model_type=str(config.get("model_type", "")),
        hidden_size=_size(path, config, "hidden_size"),
        num_hidden_layers=_size(path, config, "num_hidden_layers"),
        num_attention_heads=_size(path, config, "num_attention_heads"),
        vocab_size=rows,
        max_position_embeddings=_size(path, config, "max_position_embeddings", UNBOUNDED_CONTEXT),
        tie_word_embeddings=tied,
        parameters=sum(stored.elements for stored in counted),
        dtype=_float_dtype(path, tensors),
        bias_parameters=sum(stored.elements for name, stored in tensors.items() if name.endswith(".bias")),
    )


def stored_dtype(folder: Path) -> str:
    """The float dtype in which a model folder's weights are stored, by torch's name."""
    headers = [read_header(folder / name) for name in weight_files(folder)]
    return _float_dtype(folder, {name: stored for header in headers for name, stored in header.items()})


def head_names(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """The stored names of the output layer's weight; none where it is tied and stored once."""
    return [name for name in tensors if name.endswith(_HEADS)]


def embedding_name(path: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """The stored name of the input embedding.

    Raises:
        ModelError: there is none.
    """
    for suffix in _EMBEDDINGS:
        for name in sorted(tensors):
            if name == suffix or name.endswith(f".{suffix}"):
                return name
    raise ModelError(
        "no input embedding among the weights",
        where=str(path),
        allowed=", ".join(_EMBEDDINGS),
        fix="Complete the folder",
    )


def _size(path: Path, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    for key in _NAMES[name]:
        if isinstance(config.get(key), int):
            return int(config[key])
    if default is None:
        raise ModelError(f"config.json has no {name}", where=str(path / "config.json"), allowed=", ".join(_NAMES[name]))
    return default


def _float_dtype(path: Path, tensors: Mapping[str, StoredTensor]) -> str:
    """The dtype of most elements."""
    elements: Counter[str] = Counter()
    for name, stored in tensors.items():
        if stored.dtype.startswith(("F8", "I", "U", "F4")) and len(stored.shape) > 1:
            raise ModelError(
                f"{name} is stored as {stored.dtype}: a quantised checkpoint cannot be a base",
                where=str(path),
                allowed=", ".join(FLOAT_DTYPES),
                fix="Take the float checkpoint",
            )
        if stored.dtype in FLOAT_DTYPES:
            elements[stored.dtype] += stored.elements
    if not elements:
        raise ModelError(
            "no float weights", where=str(path), allowed=", ".join(FLOAT_DTYPES), fix="Complete the folder"
        )
    return FLOAT_DTYPES[max(sorted(elements), key=lambda name: elements[name])]
