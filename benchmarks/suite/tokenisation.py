"""G10: from rows to token ids on disk, against `datasets.map` over all cores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, SkippedError, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import measured_part
from benchmarks.world import SHARED, base_folder, distinct_rows, write_rows


class Tokenisation(Benchmark):
    """Each in a process of its own with empty caches; imports and the reading of the CSV are not counted, writing is.
    tuneline also checks lengths and ids, writes a sample, and digests every file."""

    name: ClassVar[str] = "tokenisation"
    covers: ClassVar[str] = "G10"
    question: ClassVar[str] = "How long does tokenising take, and finding that it was done?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        if not SHARED.is_dir():
            raise SkippedError("the public rows are not here and the embedded tasks have too few")
        base, count = str(base_folder(conditions.scratch)), conditions.size(40_000, 2000)
        again: list[float] = []

        def ours(round_: int) -> float:
            folder = _folder(conditions.scratch / f"tuneline-{round_}", count)
            found = measured_part("tokenise_tuneline", folder, str(folder), base)
            again.append(found["again"])
            return float(found["seconds"])

        def theirs(kind: str, round_: int) -> float:
            folder = _folder(conditions.scratch / f"{kind}-{round_}", count)
            cores = str(len(os.sched_getaffinity(0)))
            return float(measured_part("tokenise_map", folder, str(folder), base, cores, kind)["seconds"])

        sides = {"tuneline": ours, "row": lambda at: theirs("row", at), "batched": lambda at: theirs("batched", at)}
        found = taking_turns(conditions.repeats, sides)
        rows = f"{count:,} rows"
        return (
            _figure(rows, found["tuneline"], found["row"], "map(num_proc=cores), a row at a time"),
            _figure(rows, found["tuneline"], found["batched"], "map(num_proc=cores, batched=True)"),
            Figure(name="again", unit="s", ours=tuple(again), goal=Goal(at_most=0.1, of_value=True)),
        )


def _figure(name: str, ours: tuple[float, ...], theirs: tuple[float, ...], against: str) -> Figure:
    return Figure(name=name, unit="s", ours=ours, theirs=theirs, against=against, goal=Goal(at_most=round(1 / 1.7, 2)))


def _folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    write_rows(folder / "train.csv", distinct_rows("train", count))
    write_rows(folder / "eval.csv", distinct_rows("eval", 100))
    return folder
