from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tasks.artifacts import Artifact
from tasks.models import BaseModel
from tests.methods.cases import BIASED, Settings
from tests.models.families import family_base
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.training.worlds import write_tokens

Homes = Callable[[Settings], BaseModel]


@pytest.fixture(scope="session")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], BaseModel]:
    """The tiny model of a family (`tests/models/families.py`), written at the first call."""
    folder = tmp_path_factory.mktemp("families")
    return cache(lambda family: family_base(folder / family, family))


@pytest.fixture(scope="session")
def biased_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Tiny, tied, float32, with biases in its linear layers."""
    return tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "biased", biases=True))


@pytest.fixture(scope="session")
def home_of(tmp_path_factory: pytest.TempPathFactory, biased_base: BaseModel) -> Homes:
    """The base that a case is tested on: a tiny tied float32 Llama, with biases where nothing else would train."""
    plain = tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny"))
    return lambda settings: biased_base if settings["kind"] in BIASED else plain


@pytest.fixture
def base(request: pytest.FixtureRequest, home_of: Homes) -> BaseModel:
    """The home of the test's own case (`settings` or `method`); a tiny Llama without biases where it has none."""
    return home_of(_case_of(request))


@pytest.fixture(scope="session")
def half_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """Tiny, tied, with biases, stored and used in bfloat16."""
    base = tiny_base(write_tiny_llama(tmp_path_factory.mktemp("base") / "half", dtype="bfloat16", biases=True))
    return base.model_copy(update={"dtype": "bfloat16"})


def _case_of(request: pytest.FixtureRequest) -> Settings:
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if "method" in given:
        return {"kind": str(given["method"].model_fields["kind"].default)}
    return given.get("settings", {}) if "kind" in given.get("settings", {}) else {"kind": ""}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Tokenised rows to train and to be measured on."""
    return write_tokens(tmp_path_factory.mktemp("rows") / "tokens", rows=12, evaluation=4)
