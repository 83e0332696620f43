"""G7: merging shard by shard, against PEFT's merge_and_unload and save_pretrained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.figures import Figure, Goal
from benchmarks.running import measured_part
from benchmarks.world import base_folder

_SHARD_BYTES = 100_000_000
_SHARD_MIB = _SHARD_BYTES / 2**20
_SPARE_MIB = 256
_AGAINST = "PEFT's merge_and_unload + save_pretrained"
_SIDES = ("merge_tuneline", "merge_peft")

Measured = dict[str, list[dict[str, float]]]


class Merge(Benchmark):
    """A random Llama with random LoRA on all linear layers; each merge in a process of its own, imports not counted."""

    name: ClassVar[str] = "merge"
    covers: ClassVar[str] = "G7"
    question: ClassVar[str] = "What do time and memory of a merge come to, and is it the same merge?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        layers = conditions.size(18, 2)
        figures: list[Figure] = []
        for dtype in ("bfloat16", "float32"):
            figures += _of_dtype(conditions, dtype, layers if dtype == "bfloat16" else max(layers // 2, 1))
        return tuple(figures)


def _of_dtype(conditions: Conditions, dtype: str, layers: int) -> list[Figure]:
    folder = conditions.scratch / dtype
    folder.mkdir()
    tokenizer = str(base_folder(conditions.scratch))
    made = measured_part("large_llama", folder, str(folder), dtype, str(layers), str(_SHARD_BYTES), tokenizer)
    shares: list[float] = []
    found: Measured = {side: [] for side in _SIDES}
    for number in range(conditions.repeats):
        for side in _SIDES if number % 2 == 0 else reversed(_SIDES):
            found[side].append(_merged(side, folder))
        shares.append(measured_part("same_values", folder, *(str(folder / side) for side in _SIDES))["share"])
    shutil.rmtree(folder)
    return _figures(f"{dtype}, {made['mib']:.0f} MiB", found, tuple(shares))


def _merged(side: str, folder: Path) -> dict[str, float]:
    output = folder / side
    shutil.rmtree(output, ignore_errors=True)
    return measured_part(side, folder, str(folder / "base"), str(folder / "adapter"), str(output), str(_SHARD_BYTES))


def _figures(what: str, found: Measured, shares: tuple[float, ...]) -> list[Figure]:
    memory = Goal(at_most=round(_SPARE_MIB + 3 * _SHARD_MIB), of_value=True)
    equal = Goal(at_least=0.9999, of_value=True)
    return [
        _figure(f"wall time, {what}", "s", found, "seconds", Goal(at_most=0.5)),
        _figure(f"memory beyond imports, {what}", "MiB", found, "grown_mib", memory),
        _figure(f"peak resident set, {what}", "MiB", found, "peak_mib", None),
        Figure(name=f"equal values, {what}", unit="share", ours=shares, against="", goal=equal, note="bit for bit"),
    ]


def _figure(name: str, unit: str, found: Measured, key: str, goal: Goal | None) -> Figure:
    ours, theirs = (tuple(one[key] for one in found[side]) for side in _SIDES)
    return Figure(name=name, unit=unit, ours=ours, theirs=theirs, against=_AGAINST, goal=goal)
