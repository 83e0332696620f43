from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.models.values import BaseModel
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.sources.worlds import Record, make_record
from tests.tracking.conftest import empty_database
from tests.training.conftest import _as_it_was
from tests.training.worlds import write_tokens

__all__ = ["_as_it_was", "empty_database"]  # fixtures


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("sources") / "tiny"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tokens(tmp_path_factory.mktemp("sources") / "tokens")


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory, base: BaseModel, tokens: Artifact, empty_database: Path) -> Record:
    """Two cells trained once and recorded; tests read it, and copy what they change."""
    folder = tmp_path_factory.mktemp("record")
    database = Path(shutil.copyfile(empty_database, folder / "mlflow.db"))
    return make_record(folder, base, tokens, f"sqlite:///{database}")
