"""A version whose files are gone is no version to be found again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from tasks.artifacts import ArtifactStore
from tasks.models import BaseModel
from tasks.registry.recall import recall, remember
from tasks.registry.register import register
from tasks.tracking import TrackingSettings
from tests.registry.worlds import PROMPT, World, make_full, make_request, package_of
from tests.tracking.conftest import Server, empty_database, server

__all__ = ["empty_database", "server"]  # fixtures


def _everything(package: Path) -> None:
    shutil.rmtree(package)


def _weights(package: Path) -> None:
    (package / "artifacts" / "package" / "model" / "model.safetensors").unlink()


def _a_byte(package: Path) -> None:
    weights = package / "artifacts" / "package" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.unlink()  # it may be a second name of the trained weights
    weights.write_bytes(content)


@pytest.mark.parametrize("harm", [_everything, _weights, _a_byte])
def test_a_version_that_lost_its_files_is_registered_again_and_loads(
    world: World, base: BaseModel, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), name)
    store = ArtifactStore(tmp_path / "store")
    first = register(request, world.tracking, world.root)
    remember(request, first, store)
    harm(package_of(world, first))

    assert recall(request, world.tracking, store) is None
    again = register(request, world.tracking, world.root)

    assert not again.cached
    loaded = mlflow.pyfunc.load_model(str(package_of(world, again)), suppress_warnings=True)
    assert request.example is not None
    assert loaded.predict(pd.DataFrame({"prompt": [PROMPT]})) == [request.example.answer]


def test_a_version_whose_run_was_deleted_for_good_is_registered_again(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    client = world.client
    lost = client.create_run(world.client.get_run(world.run_id).info.experiment_id)
    candidate = make_full(base, tmp_path / "model", 0)
    register(make_request(world, candidate, name, run_id=lost.info.run_id), world.tracking, world.root)
    client.delete_run(lost.info.run_id)
    client._tracking_client.store._hard_delete_run(lost.info.run_id)

    again = register(make_request(world, candidate, name), world.tracking, world.root)
    assert (again.cached, again.run_id) == (False, world.run_id)


@pytest.mark.xdist_group("mlflow")
def test_a_version_that_lost_its_files_on_a_server_is_registered_again(
    server: Server, base: BaseModel, tmp_path: Path, name: str
) -> None:
    client = MlflowClient(server.uri, server.uri)
    run = client.create_run(client.create_experiment(name))
    world = World(tmp_path / "world", TrackingSettings(uri=server.uri), run.info.run_id)
    request = make_request(world, make_full(base, tmp_path / "model", 0), name)
    register(request, world.tracking, world.root)
    assert register(request, world.tracking, world.root).cached

    (lost,) = (server.folder / "artifacts").rglob(f"{run.info.run_id}/**/model.safetensors")
    lost.unlink()

    assert not register(request, world.tracking, world.root).cached
    assert register(request, world.tracking, world.root).cached
