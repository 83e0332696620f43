"""The whole pipeline with a fault at one site after another: what the two walks (`test_walk_*.py`) share.

The faults form chains: each start goes on from what the last fault left, and carries the next one; the last start
carries none, and must end as if nothing had ever happened. The cases of a chain therefore depend on their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.foundation.faults import ONCE, VARIABLE
from tests.faults.invariants import SECRETS, check_standing
from tests.flows.worlds import tuneline, write_experiment, write_world

WALK = [pytest.mark.system, pytest.mark.timeout(1500), pytest.mark.usefixtures("prefect_server")]

EXPERIMENT = {
    "methods": [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}],
    "training": {
        "max_steps": 80,
        "per_device_train_batch_size": 4,
        "save_steps": 2,
        "eval_steps": 4,
        "save_total_limit": 2,
    },
    "distributed": {"max_restarts": 0, "parallel_cells": 1},
}


class Fault(NamedTuple):
    """What one start carries, and how it ends."""

    text: str
    codes: frozenset[int]
    overrides: tuple[str, ...] = ()


IN_CI = 5
"""Every fifth fault of a chain is met in CI, in a chain of its own; `make test-cross` meets the others."""
CHAINS = ["in CI", pytest.param("others", marks=pytest.mark.cross)]
"""Each is looked at when its last fault was met."""


def chained(faults: Sequence[Fault]) -> list[Any]:
    """The faults as parameters, in their order."""
    return [
        pytest.param(fault, marks=pytest.mark.cross if place % IN_CI else (), id=fault.text)
        for place, fault in enumerate(faults)
    ]


def new_world(folder: Path) -> Path:
    write_world(folder)
    write_experiment(folder, **EXPERIMENT)
    return folder


def undisturbed_world(folder: Path) -> Path:
    """The same pipeline without a fault."""
    done = tuneline(new_world(folder), "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    return folder


def run_into(folder: Path, fault: Fault) -> None:
    """One start that meets the fault, and what must hold afterwards."""
    mark = folder.with_name(f"{folder.name}-marks") / fault.text.replace(":", "-")
    mark.parent.mkdir(exist_ok=True)
    mark.unlink(missing_ok=True)
    asked = {VARIABLE: fault.text, ONCE: str(mark)}
    done = tuneline(folder, "run", "toy.yaml", *fault.overrides, **SECRETS, **asked)
    assert mark.exists(), f"the site was not passed: {done.returncode} {done.stdout} {done.stderr}"
    assert done.returncode in fault.codes, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    check_standing(folder)
