"""Cells trained by the worker, with and without checkpoints, taking turns: `… train_cells WORLD BASE STEPS ROUNDS`.

Imports are paid once; every cell is trained by a forked child, as by a worker of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.steps import mean_milliseconds
from benchmarks.world import BATCH_SIZE, METHODS
from tasks.artifacts import Artifact, ArtifactStore
from tasks.data import DataSettings
from tasks.data.prepare import prepare, prepare_key, read_prepared
from tasks.data.tokenize import tokenize, tokenize_key
from tasks.methods import Conditions
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.training import worker
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.recording import read_metrics
from tasks.training.run import request_for
from tasks.training.settings import TrainingSettings
from tasks.training.trainer import CellTrainer
from tasks.training.values import TrainRequest

KINDS = ("lora", "full")
INTERVAL = 100
"""`training.save_steps` where the experiment says nothing."""

_NO_SAVING = 100_000
_MEASURED = "measured.json"


class Stopwatch:
    """What each checkpoint takes, and how much of it the disk is waited for."""

    def __init__(self) -> None:
        self.checkpoints: list[dict[str, float]] = []
        self._synced: list[float] = []

    def install(self) -> None:
        """Into this process."""
        save, fsync = CellTrainer._save_checkpoint, os.fsync

        def timed_sync(handle: int) -> None:
            started = time.perf_counter()
            fsync(handle)
            self._synced.append(time.perf_counter() - started)

        def timed_save(trainer: Any, *args: Any, **named: Any) -> None:
            self._synced.clear()
            started = time.perf_counter()
            save(trainer, *args, **named)
            milliseconds = (time.perf_counter() - started) * 1000
            folder = trainer._checkpoints.path(trainer.state.global_step)
            self.checkpoints.append(
                {
                    "ms": milliseconds,
                    "fsync_ms": sum(self._synced) * 1000,
                    "fsyncs": len(self._synced),
                    "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                }
            )

        CellTrainer._save_checkpoint = timed_save  # type: ignore[method-assign, assignment]
        os.fsync = timed_sync  # type: ignore[assignment]


def main(world: str, base: str, steps: str, rounds: str) -> None:
    folder = Path(world)
    tokens, resolved = material(folder, base)
    sides = [(kind, interval) for kind in KINDS for interval in (INTERVAL, _NO_SAVING)]
    found = []
    for number in range(int(rounds)):
        for kind, interval in sides[:: 1 if number % 2 == 0 else -1]:
            settings = TrainingSettings(
                max_steps=int(steps),
                per_device_train_batch_size=BATCH_SIZE,
                group_by_length=False,
                save_steps=interval,
                threads_per_rank=1,
            )
            conditions = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=384)
            spec = CellSpec(label=kind, method=METHODS[kind], seed=0)
            cell = plan_cell(spec, resolved, tokens, settings, conditions)
            place = folder / f"{kind}-{interval}-{number}"
            measured = in_child(request_for(cell, place / "work", place / "output"))
            found.append({"kind": kind, "saves": interval == INTERVAL} | measured)
    print(json.dumps({"cells": found}))


def material(folder: Path, base: str) -> tuple[Artifact, BaseModel]:
    """Rows of the world, tokenised."""
    settings = DataSettings(train=f"{folder}/train.csv", eval=f"{folder}/eval.csv", max_seq_length=384)
    store = ArtifactStore(folder / "artifacts")
    resolved = resolve_base(ModelSettings(name_or_path=base))
    prepared = read_prepared(store.make("prepare", prepare_key(settings), lambda into: prepare(settings, into)))
    key = tokenize_key(prepared, resolved, settings)
    return store.make("tokenize", key, lambda into: tokenize(prepared, resolved, settings, into)), resolved


def in_child(request: TrainRequest) -> dict[str, Any]:
    """Train in a process of its own; milliseconds per step and the checkpoints."""
    request.work.mkdir(parents=True)
    request.output.mkdir()
    process = multiprocessing.get_context("fork").Process(target=_train, args=(request,))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError((request.work / "log.txt").read_text(encoding="utf-8")[-3000:])
    measured: dict[str, Any] = json.loads((request.work / _MEASURED).read_text(encoding="utf-8"))
    return measured


def _train(request: TrainRequest) -> None:
    with (request.work / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    stopwatch = Stopwatch()
    stopwatch.install()
    path = request.work / "request.json"
    path.write_text(request.model_dump_json(), encoding="utf-8")
    if code := worker.main([str(path)]):
        os._exit(code)
    lines = read_metrics(request.work / "metrics.jsonl")
    ends = [line.timestamp_ms / 1000 for line in lines if "train/loss" in line.values]
    measured = {"step_ms": mean_milliseconds(ends), "checkpoints": stopwatch.checkpoints}
    (request.work / _MEASURED).write_text(json.dumps(measured), encoding="utf-8")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
