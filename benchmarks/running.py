"""Processes that are measured: started the way a user starts them, in an environment of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.world import World

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("MLFLOW_", "TUNELINE_", "PREFECT_", "HF_", "OMP_", "MKL_", "TORCH_", "TOKENIZERS_", "TRANSFORMERS_", "TQDM_")


class FailedError(Exception):
    """A measured process failed; the end of its output is the message."""


def environment(folder: Path, threads: int | None = None) -> dict[str, str]:
    """Without settings of the caller's shell; caches lie in the folder, so that nothing is warm from elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    kept |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return kept | ({"OMP_NUM_THREADS": str(threads)} if threads else {})


def seconds_of(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> float:
    """Wall time of a process from its start to its end.

    Raises:
        FailedError: it did not end with 0.
    """
    started = time.perf_counter()
    _run(command, folder, env)
    return time.perf_counter() - started


def _run(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(
            f"{' '.join(command[1:4])} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}"
        )
    return done.stdout


def run_tuneline(world: World, *arguments: str, env: Mapping[str, str] = {}) -> float:
    """Wall seconds of `tuneline …` in the world's folder."""
    return seconds_of(tuneline(*arguments), world.folder, environment(world.folder) | dict(env))


def tuneline(*arguments: str) -> list[str]:
    """The command as this interpreter starts it."""
    return [sys.executable, "-m", "flows", *arguments]


def run_plain(world: World, method: str, changes: Mapping[str, str] = {}) -> float:
    """Wall seconds of the plain script."""
    command = [sys.executable, str(ROOT / "benchmarks" / "plain_script.py"), *world.plain_arguments(method, changes)]
    return seconds_of(command, world.folder, environment(world.folder, world.work.threads))


def measured_part(module: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """What a module of `benchmarks.parts` measured of itself in a process of its own: its last line, JSON."""
    command = [sys.executable, "-m", f"benchmarks.parts.{module}", *arguments]
    result: dict[str, Any] = json.loads(_run(command, folder, environment(folder)).splitlines()[-1])
    return result
