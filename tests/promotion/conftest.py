from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tracking import TrackingSettings
from tests.promotion.worlds import Shelf


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> TrackingSettings:
    """One MLflow database for all tests here; every test takes a model of its own."""
    return TrackingSettings(uri=f"sqlite:///{tmp_path_factory.mktemp('promotion')}/mlflow.db")


@pytest.fixture
def shelf(database: TrackingSettings, request: pytest.FixtureRequest, tmp_path: Path) -> Shelf:
    """A registered model with three versions; no alias stands."""
    made = Shelf(database, str(request.node.name), tmp_path)
    made.add_versions(3)
    return made
