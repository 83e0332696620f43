"""A package that was changed is known, also by whoever rewrites the list of its digests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tasks.foundation.digests import canonical_json, digest_file
from tasks.foundation.errors import IntegrityError
from tasks.models import BaseModel
from tasks.registry.intact import check_intact
from tasks.registry.register import register
from tests.registry.worlds import World, make_adapter, make_full, make_request, package_of

WEIGHTS = "artifacts/package/adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def packaged(world: World, base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a registered adapter, and the digest that the registry keeps."""
    candidate = make_adapter("lora", base, tmp_path_factory.mktemp("intact") / "adapter")
    version = register(make_request(world, candidate, "intact"), world.tracking, world.root)
    return package_of(world, version), version.digest


@pytest.fixture
def copy(packaged: tuple[Path, str], tmp_path: Path) -> Path:
    """One that may be harmed; `copytree` breaks the hard links."""
    return Path(shutil.copytree(packaged[0], tmp_path / "copy"))


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def list_anew(model: Path) -> None:
    """What whoever changed a file would do next: `files.json` says what lies there now."""
    names = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    digests = {name: digest_file(model / name) for name in names if name != "files.json"}
    (model / "files.json").write_text(canonical_json(digests))


def load_otherwise(model: Path, **changes: object) -> None:
    description = yaml.safe_load((model / "MLmodel").read_text())
    description["flavors"]["python_function"] |= changes
    (model / "MLmodel").write_text(yaml.safe_dump(description))


def test_the_digest_in_the_registry_is_read_back_from_the_folder(packaged: tuple[Path, str], copy: Path) -> None:
    assert check_intact(*packaged) == packaged[1]
    assert check_intact(copy) == packaged[1], "wherever it lies"


def test_that_of_a_whole_model_too(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), name, example=None)
    version = register(request, world.tracking, world.root)
    assert check_intact(package_of(world, version)) == version.digest


def cached(model: Path) -> None:
    """What Python leaves where it imports; it would be run in place of the source."""
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "serving_model.cpython-311.pyc").write_bytes(b"")


HARMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (lambda model: flip(model / WEIGHTS), f"{WEIGHTS} was changed"),
    "missing": (lambda model: (model / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "added": (lambda model: (model / "artifacts/package/adapter/adapter_model.bin").touch(), "bin was added"),
    "a cache": (cached, "pyc was added"),
    "a link": (lambda model: (model / "more").symlink_to("/etc"), "more was added"),
    "no list": (lambda model: (model / "files.json").unlink(), "cannot be read"),
    "no JSON": (lambda model: (model / "files.json").write_text("{"), "cannot be read"),
    "another list": (lambda model: (model / "files.json").write_text("[]"), "was added|cannot be read"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_named(copy: Path, harm: str) -> None:
    do, said = HARMS[harm]
    do(copy)
    with pytest.raises(IntegrityError, match=said) as caught:
        check_intact(copy)
    assert caught.value.exit_code == 40


REWRITTEN: dict[str, Callable[[Path], object]] = {
    "weights": lambda model: flip(model / WEIGHTS),
    "code": lambda model: (model / "serving_model.py").open("a").write("\nprint('mine')\n"),
    "more code": lambda model: (model / "artifacts/package/code.py").touch(),
    "requirements": lambda model: (model / "requirements.txt").write_text("evil==1\n"),
    "pickle": lambda model: load_otherwise(model, python_model="python_model.pkl"),
    "loader": lambda model: load_otherwise(model, loader_module="evil"),
    "code folder": lambda model: load_otherwise(model, code="code"),
    "artifacts": lambda model: load_otherwise(model, artifacts={"package": {"path": "/etc", "uri": "/etc"}}),
}


@pytest.mark.parametrize("harm", REWRITTEN)
def test_whoever_rewrites_the_list_as_well_meets_the_digest_of_the_registry(
    packaged: tuple[Path, str], copy: Path, harm: str
) -> None:
    REWRITTEN[harm](copy)
    list_anew(copy)
    with pytest.raises(IntegrityError, match=r"its digest is|asks for"):
        check_intact(copy, packaged[1])


def test_another_flavor_is_refused(packaged: tuple[Path, str], copy: Path) -> None:
    description = yaml.safe_load((copy / "MLmodel").read_text())
    description["flavors"]["sklearn"] = {"pickled_model": "model.pkl"}
    (copy / "MLmodel").write_text(yaml.safe_dump(description))
    list_anew(copy)
    with pytest.raises(IntegrityError, match="more than tuneline writes"):
        check_intact(copy, packaged[1])


def test_a_list_that_agrees_with_its_files_is_still_held_against_the_registry_s_digest_of_it(copy: Path) -> None:
    """What decides no answer is in no package digest: the card, for example."""
    listing = digest_file(copy / "files.json")
    (copy / "README.md").write_text("The best model of the world.")
    list_anew(copy)
    assert check_intact(copy)
    with pytest.raises(IntegrityError, match=r"files\.json was changed"):
        check_intact(copy, listing=listing)


@pytest.mark.parametrize(("name", "allowed"), [("records/0123456789ab.json", True), ("records/a.py", False)])
def test_only_records_named_by_their_digest_may_lie_beside_the_files(copy: Path, name: str, allowed: bool) -> None:
    (copy / "records").mkdir()
    (copy / name).write_text("{}")
    if allowed:
        assert check_intact(copy)
        return
    with pytest.raises(IntegrityError, match="was added"):
        check_intact(copy)
