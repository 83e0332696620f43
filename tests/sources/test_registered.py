"""A registered version leads to the adapter or model in its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import ArtifactStore
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Source, parse_method
from tasks.models import BaseModel
from tasks.registry.register import register
from tasks.sources.folder import source_in
from tests.registry.worlds import World, make_adapter, make_base, make_full, make_request, make_world, package_of
from tests.sources.worlds import LORA, finder_for


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, BaseModel]:
    """A registry with version 1 of `adapter` and of `whole`."""
    folder = tmp_path_factory.mktemp("registered")
    world, base = make_world(folder / "world"), make_base(folder / "tiny")
    for name, candidate in (
        ("adapter", make_adapter("lora", base, folder / "adapter")),
        ("whole", make_full(base, folder / "model", 0)),
    ):
        register(make_request(world, candidate, name, example=None), world.tracking, world.root)
    return world, base


def found(registry: tuple[World, BaseModel], reference: str, folder: Path) -> Source:
    world, base = registry
    method = parse_method(LORA | {"init_from": reference})
    return finder_for(base, world.tracking, ArtifactStore(folder / "artifacts")).sources_of(method)["init_from"]


@pytest.mark.parametrize("reference", ["models:/adapter/1", "models:/adapter@challenger"])
def test_the_adapter_of_a_version_is_the_one_that_was_trained(
    registry: tuple[World, BaseModel], tmp_path: Path, reference: str
) -> None:
    world, base = registry
    trained = source_in(world.folder.parent / "adapter", "trained", "methods[lora].init_from", base)
    source = found(registry, reference, tmp_path)
    assert (source.digest, source.holds, source.base_digest) == (trained.digest, "adapter", base.digest)
    assert (source.run_id, source.reference) == (world.run_id, reference)
    assert source.title == f"{reference} of run {world.run_id}"
    assert source.method is not None and source.method["r"] == 4


def test_a_whole_model_of_a_version_can_be_a_base(registry: tuple[World, BaseModel], tmp_path: Path) -> None:
    source = found(registry, "models:/whole/1", tmp_path)
    assert source.model is not None and source.model.tokenizer_digest == registry[1].tokenizer_digest
    assert source.model.name == "models:/whole/1"


@pytest.mark.parametrize("reference", ["models:/adapter/7", "models:/nobody/1", "models:/adapter@champion"])
def test_a_version_that_is_not_there_is_refused(
    registry: tuple[World, BaseModel], tmp_path: Path, reference: str
) -> None:
    with pytest.raises(ConfigError, match=f"the registry has no {reference}"):
        found(registry, reference, tmp_path)


def test_a_version_that_others_registered_is_refused(registry: tuple[World, BaseModel], tmp_path: Path) -> None:
    world, _ = registry
    world.client.create_registered_model("foreign")
    world.client.create_model_version("foreign", (tmp_path / "x").as_uri(), run_id=world.run_id)
    with pytest.raises(ConfigError, match="was not registered by tuneline"):
        found(registry, "models:/foreign/1", tmp_path)


def test_a_package_that_was_changed_is_refused(registry: tuple[World, BaseModel], tmp_path: Path) -> None:
    world, base = registry
    candidate = make_adapter("lora", base, tmp_path / "adapter", seed=3)
    version = register(make_request(world, candidate, "harmed", example=None), world.tracking, world.root)
    config = package_of(world, version) / "artifacts/package/adapter/adapter_config.json"
    text = config.read_text()
    config.unlink()
    config.write_text(text + " ")
    with pytest.raises(IntegrityError, match=r"adapter_config\.json of the registered version is missing or was"):
        found(registry, "models:/harmed/1", tmp_path)
