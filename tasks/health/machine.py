"""Cores, memory, disk and accelerators of this machine, without torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from tasks.foundation.disk import free_bytes, nearest_existing, write_refusal
from tasks.health.check import Check, judged

Run = Callable[[Sequence[str]], str]
"""Runs a program and gives its standard output; raises OSError or SubprocessError."""

_GIB = 1 << 30
_LEAST_MEMORY_BYTES = 3 * _GIB
_LEAST_DISK_BYTES = 2 * _GIB
_PROGRAM_SECONDS = 10


def run_program(command: Sequence[str]) -> str:
    """Standard output of a program that ends with 0 within ten seconds."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PROGRAM_SECONDS)
    return done.stdout


def accelerator_check(run: Run = run_program) -> Check:
    """NVIDIA devices by nvidia-smi. None is fine: everything runs on CPU, slower."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        lines = [line.strip() for line in run(command).splitlines() if line.strip()]
    except FileNotFoundError:
        return Check(name="accelerator", ok=True, detail="none (no nvidia-smi): runs on CPU")
    except (OSError, subprocess.SubprocessError) as error:
        detail = f"nvidia-smi failed ({type(error).__name__}): the driver does not answer"
        return Check(name="accelerator", ok=False, detail=detail, fix="Run nvidia-smi and repair the driver")
    return Check(name="accelerator", ok=True, detail="; ".join(lines) or "none: runs on CPU")


def cores_check() -> Check:
    """Cores that this process may use; a container or a scheduler may allow fewer than the machine has."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Check(name="cores", ok=True, detail=f"{usable} usable of {os.cpu_count() or usable}")


def memory_check(available: int | None = None) -> Check:
    """The embedded default needs about 3 GiB: the libraries alone take one."""
    memory = psutil.virtual_memory()
    free = memory.available if available is None else available
    detail = f"{free / _GIB:.1f} GiB free of {memory.total / _GIB:.1f}"
    return judged("memory", free >= _LEAST_MEMORY_BYTES, detail, "Free memory: 3 GiB are needed")


def disk_check(folder: Path, free: int | None = None) -> Check:
    """Room for artifacts and checkpoints on the file system of the runs folder."""
    room = free_bytes(folder) if free is None else free
    fix = "Free disk space (2 GiB at least), or move the runs folder with TUNELINE_RUNS"
    return judged("disk", room >= _LEAST_DISK_BYTES, f"{room / _GIB:.1f} GiB free for {folder}", fix)


def writable_check(folder: Path) -> Check:
    """A file can be made, synced and removed where the runs folder is, or will be. Nothing is left behind."""
    if refusal := write_refusal(folder):
        fix = f"Give write permission for {nearest_existing(folder)}, or move the runs folder with TUNELINE_RUNS"
        return Check(name="runs folder", ok=False, detail=f"{folder}: {refusal}", fix=fix)
    return Check(name="runs folder", ok=True, detail=f"{folder} is writable")
