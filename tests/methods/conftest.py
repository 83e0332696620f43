from __future__ import annotations

import pytest

from tasks.models import BaseModel
from tests.models.tiny import tiny_base, write_tiny_llama


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Tiny, tied, float32."""
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture(scope="session")
def half_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Tiny, tied, stored and used in bfloat16."""
    base = tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "half", dtype="bfloat16"))
    return base.model_copy(update={"dtype": "bfloat16"})
