from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.prefect_server import serving_prefect
from tests.slurm.cluster import PlainCluster, running, why_not
from tests.slurm.machines import NamespacedCluster
from tests.training.conftest import base, tokens

__all__ = ["base", "tokens"]

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for the pipelines of these tests."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="session")
def plain_cluster() -> Iterator[PlainCluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running(PlainCluster()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def namespaced_cluster() -> Iterator[PlainCluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running(NamespacedCluster()) as cluster:
        yield cluster


@pytest.fixture
def cluster(plain_cluster: PlainCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainCluster]:
    """Two nodes side by side, both idle, before and after."""
    yield from _lent(plain_cluster, monkeypatch)


@pytest.fixture
def machines(namespaced_cluster: PlainCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainCluster]:
    """Two nodes with networks of their own, both idle, before and after."""
    yield from _lent(namespaced_cluster, monkeypatch)


def _lent(cluster: PlainCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlainCluster]:
    for name in ("CUDA_VISIBLE_DEVICES", "TUNELINE_FAULT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (cluster.environment | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}).items():
        monkeypatch.setenv(name, value)
    cluster.rest()
    yield cluster
    cluster.rest()
