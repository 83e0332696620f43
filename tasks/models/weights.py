"""What safetensors files say of themselves: names, dtypes and shapes, read from their headers without torch.

A file is 8 bytes (little-endian length of the header), the header as JSON, then the tensors' bytes without a gap:
{"lm_head.weight": {"dtype": "F32", "shape": [512, 64], "data_offsets": [0, 131072]}, "__metadata__": {"format": "pt"}}
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from tasks.foundation.errors import ModelError
from tasks.foundation.values import Value

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
FLOAT_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""safetensors' name -> torch's, of the dtypes in which a base may be stored."""
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_LONGEST_HEADER_BYTES = 100_000_000


class StoredTensor(Value):
    """One tensor as a safetensors header describes it."""

    dtype: str
    """safetensors' name: `F32`, `BF16`, …"""
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that make up the model, sorted.

    Raises:
        ModelError: there are none, a shard of the index is missing, or the weights are pickled.
    """
    if (folder / INDEX_FILE).is_file():
        return _indexed_files(folder)
    if (folder / SINGLE_FILE).is_file():
        return (SINGLE_FILE,)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            "this folder holds an adapter, not a base model",
            where=str(folder),
            fix="Name the model that the adapter was trained on",
        )
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        raise ModelError(
            f"the weights are pickled ({pickled[0]}): loading them can run code",
            where=str(folder),
            allowed="safetensors only",
            fix="Convert them with save_pretrained, or take a revision that has model.safetensors",
        )
    raise ModelError(
        "no weights",
        where=str(folder),
        allowed=f"{SINGLE_FILE}, or shards with {INDEX_FILE}",
        fix="Complete the folder",
    )


def _indexed_files(folder: Path) -> tuple[str, ...]:
    index = read_json(folder / INDEX_FILE)
    listed = index.get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise ModelError("the index has no weight_map", where=str(folder / INDEX_FILE), fix="Get the file again")
    names = sorted(set(listed.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(
                f"the index names {name!r}", where=str(folder / INDEX_FILE), allowed="*.safetensors beside it"
            )
        if not (folder / name).is_file():
            raise ModelError(f"shard {name} is missing", where=str(folder), fix="Get the model again")
    return tuple(names)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensor name -> what is stored, in the file's order.

    Raises:
        ModelError: the file is not safetensors, or shorter or longer than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER_BYTES):
            raise ModelError("truncated, or not a safetensors file", where=str(path), fix="Get the file again")
        raw = file.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = {name: _stored(entry) for name, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError("the safetensors header is damaged", where=str(path), fix="Get the file again") from error
    if size != 8 + length + end:
        raise ModelError(
            f"the file has {size} bytes, its header says {8 + length + end}: truncated or damaged",
            where=str(path),
            fix="Get the file again",
        )
    return tensors


def _stored(entry: dict[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), size_bytes=end - start)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: the file is no JSON object, with the line.
    """
    try:
        value = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ModelError(
            f"broken JSON: {error.msg}", where=f"{path}:{error.lineno}", fix="Get the file again"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ModelError("broken JSON", where=str(path), fix="Get the file again") from error
    if not isinstance(value, dict):
        raise ModelError("not a JSON object", where=str(path), fix="Get the file again")
    return value
