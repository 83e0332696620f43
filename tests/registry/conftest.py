from __future__ import annotations

from pathlib import Path

import pytest

from tasks.models import BaseModel
from tests.registry.worlds import World, make_base, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One MLflow database for all tests here (making one takes seconds); every test takes its own model name."""
    return make_world(tmp_path_factory.mktemp("registry") / "world")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    return str(request.node.name).replace("[", "-").replace("]", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made"
