"""A tiny random Llama, a learnable toy, and cells that train on them in a second."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from tasks.artifacts import Artifact, seal
from tasks.methods import Conditions
from tasks.models.values import BaseModel
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.recorder import Recorder
from tasks.training.recording import MetricLine, read_metrics
from tasks.training.run import request_for
from tasks.training.session import train_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest, TrainResult
from tests.models.tiny import VOCABULARY

LORA = {"kind": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "learning_rate": 1e-2}
QUICK = TrainingSettings(max_steps=8, per_device_train_batch_size=4, save_steps=2, save_total_limit=3)


def write_tokens(folder: Path, rows: int = 30, evaluation: int = 6) -> Artifact:
    """Rows `0 a b c a b c 1` of differing lengths; the answer (the repetition and the end) is learnt."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(5)
    for name, count in (("train", rows), ("eval", evaluation)):
        columns: dict[str, list[Any]] = {"id": [], "input_ids": [], "labels": [], "length": []}
        for row in range(count):
            half = torch.randint(3, VOCABULARY, (2 + row % 5,), generator=generator).tolist()
            columns["id"].append(f"{name}{row}")
            columns["input_ids"].append([0, *half, *half, 1])
            columns["labels"].append([-100] * (1 + len(half)) + [*half, 1])
            columns["length"].append(2 * len(half) + 2)
        table = pa.table(columns)
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    manifest = seal(folder, kind="tokenize", key="toy")
    return Artifact(step="tokenize", key="toy", path=folder, digest=manifest.digest)


def toy_cell(base: BaseModel, tokens: Artifact, method: dict[str, Any], training: TrainingSettings = QUICK) -> Cell:
    conditions = Conditions(gradient_checkpointing=training.gradient_checkpointing, packing=False, max_seq_length=16)
    return plan_cell(CellSpec(label=str(method["kind"]), method=method, seed=0), base, tokens, training, conditions)


def request_in(folder: Path, cell: Cell) -> TrainRequest:
    """A request whose work and output lie in `folder`; both exist."""
    request = request_for(cell, folder / "work", folder / "output")
    for path in (request.work, request.output):
        path.mkdir(parents=True, exist_ok=True)
    return request


def trained(request: TrainRequest) -> TrainResult:
    """Train in this process."""
    train_cell(request)
    return TrainResult.model_validate_json((request.output / "result.json").read_text(encoding="utf-8"))


def loss_series(request: TrainRequest) -> list[tuple[int, float]]:
    """(step, loss) as written, in order."""
    lines: list[MetricLine] = read_metrics(request.work / "metrics.jsonl")
    return [(line.step, line.values["train/loss"]) for line in lines if "train/loss" in line.values]


def in_child(action: Callable[[], object]) -> int:
    """Run in a forked child (torch is imported already, so this is quick) and return its exit code, -9 for SIGKILL."""
    process = multiprocessing.get_context("fork").Process(target=action, daemon=True)  # none outlives a failed test
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def killed_after(step: int, request: TrainRequest) -> None:
    """Train in a child that dies as this step ends, and leave what it left."""

    def killing(self: Recorder, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            kill_this_process()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_step_end", killing)
        assert in_child(partial(trained, request)) == -9


def kill_this_process() -> None:
    """As a power cut would: nothing is flushed, nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
