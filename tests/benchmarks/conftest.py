"""A tiny model and its rows, as the benchmarks lay them out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.world import Work, World, write_rows
from tests.models.tiny import write_tiny_llama

WORK = Work(steps=60, train_rows=40, eval_rows=8, max_new_tokens=4, save_steps=10, threads=1)


def write_world(folder: Path) -> World:
    """The rows in `folder/world`, the model beside it."""
    (folder / "world").mkdir()
    for name, start, count in (("train.csv", 3, 40), ("eval.csv", 45, 8)):
        rows = [(f"w{row} w{row + 1}", f"w{row + 1} w{row}") for row in range(start, start + count)]
        write_rows(folder / "world" / name, rows)
    return World(folder=folder / "world", base=write_tiny_llama(folder / "model"), work=WORK)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """For one test."""
    return write_world(tmp_path)
