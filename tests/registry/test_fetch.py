"""Which version a name means, and what is said where it means none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError, IntegrityError, ModelError
from tasks.models import BaseModel
from tasks.registry import RegisteredVersion
from tasks.registry.fetch import Wanted, fetch_version, find_version, parse_wanted, verified
from tasks.registry.register import register
from tasks.tracking.lookup import Lookup
from tests.registry.worlds import World, make_adapter, make_request, package_of


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("toy", Wanted(name="toy", alias="champion")),
        ("toy@challenger", Wanted(name="toy", alias="challenger")),
        ("toy:12", Wanted(name="toy", version="12")),
        ("一个 模型.v2", Wanted(name="一个 模型.v2", alias="champion")),
    ],
)
def test_a_model_is_named_by_alias_or_version(text: str, wanted: Wanted) -> None:
    assert parse_wanted(text, "champion") == wanted


@pytest.mark.parametrize(
    "text", ["", " ", "a/b", "a:b", "a@", "a:", "a@b@c", "a@b:1", "a@b;c", "a@$(id)", "a\nb", "a\x00", "models:/a/1"]
)
def test_what_names_no_model_is_refused_before_anybody_is_asked(text: str) -> None:
    with pytest.raises(ConfigError, match="names no registered model"):
        parse_wanted(text, "champion")


@pytest.fixture(scope="module")
def registered(world: World, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Lookup:
    """Version 1 of `fetched`, its aliases, and a version that somebody else registered."""
    candidate = make_adapter("prompt_tuning", base, tmp_path_factory.mktemp("fetched") / "adapter")
    register(make_request(world, candidate, "fetched"), world.tracking, world.root)
    world.client.create_registered_model("foreign")
    world.client.create_model_version("foreign", f"runs:/{world.run_id}/x", run_id=world.run_id)
    return Lookup(world.tracking)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nobody", "there is no registered model nobody"),
        ("$(touch canary)", "there is no registered model"),
        ("fetched@champion", r"fetched has no alias champion\. Aliases: challenger \(version 1\)"),
        ("fetched:7", "fetched has no version 7"),
        ("foreign:1", "was not registered by tuneline"),
    ],
)
def test_what_is_not_there_is_named(
    registered: Lookup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        find_version(registered, parse_wanted(text, "champion"))
    assert not list(tmp_path.iterdir()), "a name is no command"


def test_the_copy_is_verified_and_leaves_pythons_caches_behind(
    registered: Lookup, world: World, tmp_path: Path
) -> None:
    version = find_version(registered, parse_wanted("fetched@challenger", ""))
    stored = package_of(world, RegisteredVersion(name="fetched", version=1, alias="", uri="", run_id="", digest=""))
    (stored / "__pycache__").mkdir()
    (stored / "__pycache__" / "serving_model.cpython-311.pyc").write_bytes(b"of somebody who loaded it there")
    found = fetch_version(registered, version, tmp_path)
    assert (found.method, found.holds) == ("prompt_tuning", "adapter")
    assert found.digest == version.tags["tuneline.package_sha256"]
    assert tmp_path in found.folder.parents and not (found.folder / "__pycache__").exists()


def test_a_version_that_is_another_than_its_tag_says_is_refused(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    first = register(
        make_request(world, make_adapter("lora", base, tmp_path / "1", 1), name), world.tracking, world.root
    )
    second = register(
        make_request(world, make_adapter("lora", base, tmp_path / "2", 2), name), world.tracking, world.root
    )
    swapped = package_of(world, first)
    shutil.rmtree(swapped)
    shutil.copytree(package_of(world, second), swapped)
    lookup = Lookup(world.tracking)
    with pytest.raises(IntegrityError, match=f"its digest is {second.digest}, not {first.digest}"):
        fetch_version(lookup, find_version(lookup, parse_wanted(f"{name}:1", "")), tmp_path / "copy")
    shutil.rmtree(swapped)
    with pytest.raises(ModelError, match="are gone"):
        fetch_version(lookup, find_version(lookup, parse_wanted(f"{name}:1", "")), tmp_path / "copy")


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        verified(tmp_path / "nothing")
