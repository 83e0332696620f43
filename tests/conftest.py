"""For all tests."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

os.environ["TUNELINE_LOCKS"] = tempfile.mkdtemp()  # devices of tests do not exist, and other workers have the same ones
settings.load_profile("ci")  # the same examples at every run, and none may fail for being slow
torch.set_num_threads(1)  # models here are tiny: threads that wait for each other cost seven times what they compute


def _forget_exits() -> None:
    """What the parent's Prefect does at the end of its threads is no matter of a fork's: its threads are not there.

    The standard library's own stays: without it, a pool of threads begun in the fork is waited for for ever.
    """
    exits = threading._threading_atexits  # type: ignore[attr-defined]
    exits[:] = [call for call in exits if _module_of(call).startswith("concurrent.")]


def _module_of(call: Any) -> str:
    return str(getattr(getattr(call, "func", call), "__module__", ""))


os.register_at_fork(after_in_child=_forget_exits)

_TESTS = Path(__file__).parent
_FIRST = (
    *("faults/test_walk_faults.py", "faults/test_walk_kills.py"),
    *("flows", "faults", "slurm", "training", "registry"),
)
"""Files, and folders with files, that take minutes: begun last, one worker would go on long after the others."""
_MANY = 100
_known = [0]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Training in a test's own process sets the number."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """What a test, or a library in it, leaves among the environment variables is gone before the next."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _libraries_are_no_garbage() -> None:
    """Else Python's collector walks through some 600,000 objects of theirs again and again: half of all time."""
    if len(sys.modules) > _known[0] + _MANY:
        gc.collect()
        gc.freeze()
        _known[0] = len(sys.modules)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first (with `--no-loadscope-reorder`, else xdist takes those with the most tests)."""
    items.sort(key=lambda item: _turn(item.path.relative_to(_TESTS)))


def _turn(path: Path) -> int:
    """The place of a test file's row in `_FIRST`, or the end."""
    rows = [_FIRST.index(name) for name in (path.as_posix(), path.parts[0]) if name in _FIRST]
    return min(rows, default=len(_FIRST))
