"""A folder with a tiny model, a toy data set and an experiment, and `tuneline` as a user starts it."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tasks.training.recording import read_progress
from tests.models.tiny import write_tiny_llama

METHODS: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "full", "learning_rate": 1e-3},
    {"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2},
    {"kind": "prompt_tuning", "num_virtual_tokens": 4, "learning_rate": 0.1},
]


def write_world(folder: Path) -> Path:
    """Model, data and `toy.yaml`; every world is the same."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tiny_llama(folder / "model")
    dice = random.Random(1)
    for name, count in (("train.csv", 40), ("dev.csv", 12)):
        rows = [[f"w{dice.randrange(3, 60)}" for _ in range(2 + row % 3)] for row in range(count)]
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["prompt", "completion"], *([" ".join(r), " ".join(r)] for r in rows)])
    return write_experiment(folder)


def write_experiment(folder: Path, **changes: Any) -> Path:
    """`toy.yaml`, with sections replaced."""
    experiment = {
        "name": "toy",
        "model": {"name_or_path": "model"},
        "data": {"train": "train.csv", "eval": "dev.csv", "max_seq_length": 32},
        "methods": METHODS,
        "training": {"max_steps": 6, "per_device_train_batch_size": 4, "save_steps": 2},
        "evaluation": {"metrics": ["loss", "exact_match"], "max_new_tokens": 8, "samples": 2},
        "registry": {"model": "toy"},
        "tracking": {"flush_seconds": 120},
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump(experiment | changes, sort_keys=False), encoding="utf-8")
    return path


@contextmanager
def started(folder: Path, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`tuneline` in a folder, without waiting; when the block ends, so does what is left of it.

    `variables`: environment variables beside those of the test, of which none that means something to us is handed on.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "TUNELINE_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_signals,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def hear_signals() -> None:
    """Whoever runs the tests in the background, or with nohup, has closed the ears of all that they start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def tuneline(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `tuneline` to its end."""
    with started(folder, *arguments, **variables) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def client(folder: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def runs_of(mlflow: MlflowClient, name: str = "toy") -> list[Run]:
    """All runs of the experiment, oldest first."""
    experiment = mlflow.get_experiment_by_name(name)
    assert experiment is not None
    found = mlflow.search_runs([experiment.experiment_id], max_results=500)
    return sorted(found, key=lambda run: run.info.start_time)


def cells_of(runs: list[Run], parent: Run) -> dict[str, Run]:
    """Label -> run of the cells below a parent."""
    return {
        run.data.tags["tuneline.label"]: run
        for run in runs
        if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id and "tuneline.label" in run.data.tags
    }


def parents_of(runs: list[Run]) -> list[Run]:
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def weights_of(folder: Path) -> dict[str, str]:
    """Kind -> weights digest of every `train` artifact."""
    found = {}
    for path in sorted((folder / "runs" / "artifacts" / "train").glob("*/result.json")):
        holds = "adapter" if (path.parent / "adapter").is_dir() else "model"
        kind = "full"
        if holds == "adapter":
            config = json.loads((path.parent / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
            kind = config["peft_type"].lower()
        found[kind] = json.loads(path.read_text(encoding="utf-8"))["weights_digest"]
    return found


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Return when some cell has trained so many steps."""
    while process.poll() is None:
        for path in (folder / "runs" / "work").glob("*/progress.json"):
            if (progress := read_progress(path)) and progress.step >= step:
                return
        time.sleep(0.05)
    raise AssertionError(f"it ended before step {step}: {process.communicate()}")


def processes_in(folder: Path) -> list[str]:
    """Command lines of all processes that work in a folder."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        if process.info["cwd"] == str(folder) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()
