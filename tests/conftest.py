"""For all tests."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.load_profile("ci")  # the same examples at every run, and none may fail for being slow
torch.set_num_threads(1)  # models here are tiny: threads that wait for each other cost seven times what they compute

_TESTS = Path(__file__).parent
_FIRST = ("flows", "faults", "slurm", "training", "registry")
"""Folders whose files take minutes for a few tests: begun last, one worker would go on long after the others."""
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
    items.sort(key=lambda item: _FIRST.index(folder) if (folder := _folder(item.path)) in _FIRST else len(_FIRST))


def _folder(path: Path) -> str:
    return path.relative_to(_TESTS).parts[0]
