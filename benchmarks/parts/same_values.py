"""The share of values with equal bits in two models: `python -m benchmarks.parts.same_values ONE OTHER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open

from tasks.models import weight_files


def main(one: str, other: str) -> None:
    theirs = _places(Path(other))
    same = total = 0
    for name, file in _places(Path(one)).items():
        first, second = _read(file, name), _read(theirs[name], name)
        same += int(torch.eq(first, second).sum()) if first.dtype == second.dtype else 0
        total += first.numel()
    print(json.dumps({"share": same / total}))


def _places(folder: Path) -> dict[str, Path]:
    found = {}
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as tensors:
            found.update(dict.fromkeys(tensors.keys(), folder / file))
    return found


def _read(file: Path, name: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


if __name__ == "__main__":
    main(*sys.argv[1:])
