"""A folder with what both sides read: one base, the same rows as CSV, and an experiment for tuneline."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from benchmarks.base import Conditions
from tasks.embedded import task_rows
from tasks.foundation.values import Value

log = logging.getLogger(__name__)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
_MODEL = SHARED / "models" / "stories260k"
_ROWS = SHARED / "data" / "e2e_nlg"
_FIELDS = ("prompt", "completion")

METHODS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full", "learning_rate": 3e-3},
    "lora": {"kind": "lora", "r": 8, "lora_alpha": 16, "target_modules": "all-linear", "learning_rate": 1e-2},
    "qlora": {"kind": "qlora", "r": 8, "lora_alpha": 16, "target_modules": "all-linear", "learning_rate": 1e-2},
    "ia3": {"kind": "ia3", "learning_rate": 3e-2},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 20, "learning_rate": 3e-2},
    "prompt_tuning": {"kind": "prompt_tuning", "num_virtual_tokens": 20, "learning_rate": 0.3},
}
"""The methods that both sides know, with the settings that the plain script has built in."""

BATCH_SIZE = 8


class Work(Value):
    """How much there is to do."""

    steps: int
    train_rows: int
    eval_rows: int
    max_new_tokens: int
    save_steps: int = 100
    threads: int | None = None
    """Of torch in each training process; each side's own default when absent."""


def usual_work(conditions: Conditions) -> Work:
    """That of the shipped experiment on E2E."""
    return Work(
        steps=conditions.size(300, 4),
        train_rows=conditions.size(2400, 100),
        eval_rows=conditions.size(100, 4),
        max_new_tokens=conditions.size(96, 2),
    )


class World(Value):
    """The folder; `train.csv`, `eval.csv` and experiments lie in it, and whatever runs leave."""

    folder: Path
    base: Path
    work: Work

    def experiment(self, methods: Sequence[str], parallel_cells: int | None = None) -> Path:
        """Write an experiment that does what the plain script does: no grouping by length, the same metrics."""
        content: dict[str, Any] = {
            "name": "bench",
            "model": {"name_or_path": str(self.base)},
            "data": {"train": "train.csv", "eval": "eval.csv", "max_seq_length": 384},
            "methods": [METHODS[name] for name in methods],
            "training": {
                "max_steps": self.work.steps,
                "per_device_train_batch_size": BATCH_SIZE,
                "group_by_length": False,
                "save_steps": self.work.save_steps,
                "threads_per_rank": self.work.threads,
            },
            "distributed": {"parallel_cells": parallel_cells},
            "evaluation": {"metrics": ["loss", "bleu"], "max_new_tokens": self.work.max_new_tokens, "batch_size": 16},
            "registry": {"model": "bench"},
        }
        path = self.folder / "bench.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def plain_arguments(self, method: str, changes: Mapping[str, str] = {}) -> list[str]:
        """What the plain script is called with for the same work; `changes` are options by name."""
        options = {
            "method": method,
            "model": str(self.base),
            "data": str(self.folder),
            "output": str(self.folder / "plain" / method),
            "steps": str(self.work.steps),
            "save-steps": str(self.work.save_steps),
            "batch-size": str(BATCH_SIZE),
            "learning-rate": str(METHODS[method]["learning_rate"]),
            "max-new-tokens": str(self.work.max_new_tokens),
        }
        return [part for name, value in (options | dict(changes)).items() for part in (f"--{name}", value)]


def make_world(folder: Path, base: Path, work: Work) -> World:
    """A new folder with the rows in it; no prompt stands twice, so that neither side leaves any out."""
    folder.mkdir(parents=True)
    write_rows(folder / "train.csv", first_rows("train", work.train_rows))
    write_rows(folder / "eval.csv", first_rows("eval", work.eval_rows))
    return World(folder=folder, base=base, work=work)


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([_FIELDS, *rows])


def first_rows(side: str, count: int) -> list[tuple[str, str]]:
    """The first rows with a prompt of their own: of E2E where the shared data is, else of the embedded task."""
    found: dict[str, str] = {}
    for prompt, completion in _public(side) if _ROWS.is_dir() else _embedded(side):
        found.setdefault(prompt, completion)
    return list(islice(found.items(), count))


def distinct_rows(side: str, count: int) -> list[tuple[str, str]]:
    """The first distinct rows of E2E; prompts may stand several times."""
    return list(islice(dict.fromkeys(_public(side)), count))


def _public(side: str) -> Iterable[tuple[str, str]]:
    with (_ROWS / ("trainset.csv" if side == "train" else "devset.csv")).open(encoding="utf-8", newline="") as file:
        return [(row["mr"], row["ref"]) for row in csv.DictReader(file)]


def _embedded(side: str) -> Iterable[tuple[str, str]]:
    rows = task_rows("records-en", "train" if side == "train" else "test")
    return [(row["prompt"], row["completion"]) for row in rows]


def base_folder(scratch: Path) -> Path:
    """The trained Llama of 260,032 parameters where the shared models are; else the embedded base, which takes a
    minute to build."""
    if _MODEL.is_dir():
        return _MODEL
    from tasks.embedded.pretrain import build_base

    folder = scratch / "embedded-base"
    if not folder.exists():
        folder.mkdir()
        build_base(folder, lambda step, total, loss: log.debug("step %d of %d: %f", step, total, loss))
    return folder
