"""One real stack for all tests of this folder: it takes some 20 s to come up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tasks.services.processes import running
from tests.browser import chromium
from tests.flows.worlds import write_experiment, write_world
from tests.services.person import Person, person_at
from tests.services.stack import Furnish, RunningStack, running_stack


@pytest.fixture(scope="session")
def one_stack() -> Iterator[RunningStack]:
    with running_stack() as running:
        yield running


@pytest.fixture
def team(one_stack: RunningStack) -> RunningStack:
    """The stack, up whatever the test before has done to it."""
    if not all(running(one_stack.stack, service) for service in one_stack.stack.services):
        up = one_stack.tuneline("stack", "up")
        assert up.returncode == 0, up.stderr
    return one_stack


@pytest.fixture
def stopped(one_stack: RunningStack) -> RunningStack:
    """The stack, down."""
    assert one_stack.tuneline("stack", "down").returncode == 0
    return one_stack


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def person(browser: Browser, stack: RunningStack, tmp_path: Path) -> Iterator[Person]:
    """Somebody at the pages of the stack, as the test's own `stack` has furnished it; pictures go to `tmp_path`."""
    with person_at(browser, stack, tmp_path) as someone:
        yield someone


@pytest.fixture(scope="module")
def furnish(one_stack: RunningStack) -> Furnish:
    """Give the worker's folder a world and one experiment, nothing of the modules before; the forms know of it."""

    def furnished(name: str, /, **changes: Any) -> RunningStack:
        folder = one_stack.folder
        for left in ("runs", "experiments"):
            shutil.rmtree(folder / left, ignore_errors=True)
        write_world(folder)
        (folder / "experiments").mkdir()
        write_experiment(folder, **changes).rename(folder / "experiments" / f"{name}.yaml")
        up = one_stack.tuneline("stack", "up")
        assert up.returncode == 0, up.stderr
        return one_stack

    return furnished
