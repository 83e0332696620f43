from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.worlds import tuneline, write_world
from tests.ports import free_port
from tests.prefect_server import serving_prefect


@pytest.fixture(scope="session", autouse=True)
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for all runs of these tests."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="session")
def mlflow_url() -> str:
    """Where the pages of MLflow will be, for links that lead there."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, prefect_server: str, mlflow_url: str) -> tuple[Path, str]:
    """A folder in which the toy experiment was run once, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_world(folder)
    done = tuneline(folder, "run", "toy.yaml", f"tracking.ui_url={mlflow_url}")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout
