from __future__ import annotations

import pytest

from tasks.models import BaseModel
from tests.vocabulary.worlds import SORTS, base_in, write_base


@pytest.fixture(scope="package")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, BaseModel]:
    return {sort: base_in(write_base(tmp_path_factory.mktemp(sort) / "base", sort)) for sort in SORTS}
