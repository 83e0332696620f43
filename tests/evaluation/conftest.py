from __future__ import annotations

import pytest

from tasks.models import BaseModel
from tests.evaluation.worlds import base_in, save_tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny random Llama with a byte tokenizer."""
    return base_in(save_tiny_model(tmp_path_factory.mktemp("tiny")))
