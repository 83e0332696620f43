from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch

from tasks.artifacts import Artifact
from tasks.models.values import BaseModel
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.training.worlds import write_tokens


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("training") / "tiny"))


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_tokens(tmp_path_factory.mktemp("training") / "tokens")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Training sets process-wide switches; each test starts with pytest's own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
    torch.use_deterministic_algorithms(False)
