"""The processes of one pipeline, found by a mark in their environment, and what each of them is."""

from __future__ import annotations

import random
from collections.abc import Sequence

import psutil

MARK = "SOAK_PIPELINE"
"""Environment variable that every process of a pipeline inherits; its value is the folder."""

_ROLES = (
    ("pipeline", "-m flows run"),
    ("Prefect server", "flows.prefect_server"),
    ("warden", "tasks.launch.warden"),
    ("agent", "tasks.launch.agent"),
    ("rank", "tasks.training.worker"),
    ("child", "spawn_main"),
)
"""By a part of the command line; the first that fits, since an agent's names the worker too."""


def role_of(command: Sequence[str], environment: dict[str, str]) -> str:
    """`pipeline`, `rank 1`, …; empty for a helper of Python's own."""
    line = " ".join(command)
    role = next((name for name, part in _ROLES if part in line), "")
    return f"rank {environment.get('RANK', '0')}" if role == "rank" else role


def alive(mark: str) -> dict[int, str]:
    """Process id -> role of every living process of a pipeline."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = role_of(process.cmdline(), process.environ())
        except (psutil.Error, OSError):  # it has ended, or belongs to somebody else
            continue
    return found


def choose(dice: random.Random, candidates: dict[int, str]) -> tuple[int, str] | None:
    """One process: first a role by lot, then one of those that have it."""
    roles = sorted(set(candidates.values()) - {""})
    if not roles:
        return None
    role = dice.choice(roles)
    return min(pid for pid, its in candidates.items() if its == role), role
