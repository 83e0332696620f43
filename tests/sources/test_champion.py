"""What production serves, as a candidate that can be asked what the challengers are asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import ArtifactStore
from tasks.foundation.digests import digest_tree
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel
from tasks.registry.register import register
from tasks.sources.champion import FoundChampion, champion_in
from tasks.tracking.lookup import Lookup
from tests.registry.worlds import (
    PROMPT,
    World,
    greedy,
    make_adapter,
    make_base,
    make_full,
    make_request,
    make_world,
    read_json,
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, BaseModel]:
    """`adapter` and `whole` with a champion each, `fresh` without one."""
    folder = tmp_path_factory.mktemp("champions")
    world, base = make_world(folder / "world"), make_base(folder / "tiny")
    adapter = make_adapter("lora", base, folder / "adapter")
    for name, candidate in (
        ("adapter", adapter),
        ("whole", make_full(base, folder / "model", 0)),
        ("fresh", adapter),
    ):
        register(make_request(world, candidate, name, example=None), world.tracking, world.root)
        if name != "fresh":
            world.client.set_registered_model_alias(name, "champion", "1")
    return world, base


def ask(registry: tuple[World, BaseModel], name: str, folder: Path, base: BaseModel | None = None) -> object:
    world, own = registry
    return champion_in(name, base or own, Lookup(world.tracking), ArtifactStore(folder))


@pytest.mark.parametrize(("name", "weights"), [("adapter", "adapter"), ("whole", "model")])
def test_the_champion_answers_as_what_was_registered(
    registry: tuple[World, BaseModel], tmp_path: Path, name: str, weights: str
) -> None:
    found = ask(registry, name, tmp_path)
    assert isinstance(found, FoundChampion)
    world, base = registry
    trained = world.folder.parent / weights
    assert found.version == 1 and found.candidate.label == "champion (version 1)"
    assert found.weights_digest == digest_tree(trained, [path.name for path in trained.glob("*.safetensors")])
    request = make_request(world, found.candidate, name, example=None)
    answer = greedy(load_candidate(found.candidate), base, request.data, PROMPT)
    serving = read_json(found.candidate.weights.parent / "serving.json") if found.candidate.weights else {}
    assert answer and serving["max_new_tokens"] == request.max_new_tokens


@pytest.mark.parametrize("name", ["fresh", "unknown"])
def test_without_the_alias_there_is_nobody_to_ask(registry: tuple[World, BaseModel], tmp_path: Path, name: str) -> None:
    assert ask(registry, name, tmp_path) == "there was no champion when it was compared"


def test_a_champion_on_another_base_is_not_asked_what_it_cannot_answer_alike(
    registry: tuple[World, BaseModel], tmp_path: Path
) -> None:
    other = registry[1].model_copy(update={"digest": "0" * 64})
    said = ask(registry, "adapter", tmp_path, other)
    assert said == "champion version 1 stands on another base model, so it was not asked"
