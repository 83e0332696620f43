"""For all tests of faults: a tiny model with tokens to train on, and one Prefect server for whole pipelines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.prefect_server import serving_prefect
from tests.training.conftest import _as_it_was, base, tokens

__all__ = ["_as_it_was", "base", "tokens"]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for all pipelines of these tests that ask for it; the next ones then use it too."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url
