"""What lies in a registered model: plain files, exact requirements, digests, and the way back to where it came from."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.models import Model
from safetensors import safe_open

from tasks.methods import Source
from tasks.models import BaseModel
from tasks.registry import RegisteredVersion, RegisterRequest
from tasks.registry.contents import fill
from tasks.registry.package import describe, requirements
from tasks.registry.register import register
from tests.registry.worlds import (
    PROMPT,
    World,
    make_adapter,
    make_full,
    make_merged,
    make_request,
    package_of,
    read_json,
)


@pytest.fixture(scope="module")
def registered(
    world: World, base: BaseModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RegisterRequest, RegisteredVersion, Path]:
    """One adapter, registered once, looked at by many."""
    folder = tmp_path_factory.mktemp("registered")
    (folder / "comparison.md").write_text("## stories\n\nWinner by lowest loss: prompt_tuning.\n")
    candidate = make_adapter("prompt_tuning", base, folder / "adapter")
    request = make_request(world, candidate, "looked-at", comparison=folder / "comparison.md")
    version = register(request, world.tracking, world.root)
    return request, version, package_of(world, version)


def files_of(folder: Path) -> dict[str, Path]:
    """But for Python's caches, which whoever loads a model in place leaves there: tests share this registry."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.parent.name != "__pycache__")
    return {path.relative_to(folder).as_posix(): path for path in paths}


def test_the_proof_leaves_nothing_of_its_own_in_the_package(
    world: World, base: BaseModel, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python keeps the compiled code of what it loads beside it, unless somebody has turned that off."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    version = register(make_request(world, make_full(base, tmp_path / "model", 5), name), world.tracking, world.root)
    assert not list(package_of(world, version).rglob("__pycache__"))


def is_pickle(path: Path) -> bool:
    """By content: a pickle of any protocol from 2, a zip (torch.save), or a protocol 0 pickle that loads."""
    head = path.read_bytes()[:2]
    return (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or zipfile.is_zipfile(path)


def test_no_file_of_a_package_is_a_pickle(
    registered: tuple[RegisterRequest, RegisteredVersion, Path], tmp_path: Path
) -> None:
    (tmp_path / "probe").write_bytes(pickle.dumps([1]))
    assert is_pickle(tmp_path / "probe"), "the test must know one when it sees one"
    files = files_of(registered[2])
    assert not [name for name, path in files.items() if is_pickle(path)]
    assert {Path(name).suffix for name in files} <= {"", ".md", ".json", ".yaml", ".txt", ".py", ".safetensors"}


def test_a_pickle_beside_the_weights_is_left_behind(world: World, base: BaseModel, tmp_path: Path) -> None:
    candidate = make_full(base, tmp_path / "model", 0)
    (tmp_path / "model" / "training_args.bin").write_bytes(pickle.dumps([1]))
    (tmp_path / "package").mkdir()
    fill(make_request(world, candidate, example=None), tmp_path / "package")
    assert sorted(files_of(tmp_path / "package")) == [
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "serving.json",
    ]


def test_a_merged_model_gets_the_tokenizer_of_its_base(world: World, base: BaseModel, tmp_path: Path) -> None:
    candidate = make_merged(base, tmp_path / "merged")
    assert not (tmp_path / "merged" / "tokenizer.json").exists()
    (tmp_path / "package").mkdir()
    fill(make_request(world, candidate, example=None), tmp_path / "package")
    packaged = tmp_path / "package" / "model" / "tokenizer.json"
    assert packaged.read_bytes() == (base.path / "tokenizer.json").read_bytes()


def test_files_json_holds_the_sha256_of_every_other_file(
    registered: tuple[RegisterRequest, RegisteredVersion, Path],
) -> None:
    files = files_of(registered[2])
    stated = read_json(files.pop("files.json"))
    assert stated == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_no_file_names_a_folder_of_the_machine_that_made_it(
    registered: tuple[RegisterRequest, RegisteredVersion, Path], world: World
) -> None:
    request, version, folder = registered
    here = [str(request.candidate.base.path.parent), str(request.candidate.weights), str(world.folder)]
    for name, path in files_of(folder).items():
        assert not [place for place in here if place.encode() in path.read_bytes()], name
    stored = world.client.get_model_version(version.name, str(version.version))
    assert not [place for place in here if place in str(stored.tags) + stored.description]


def test_signature_and_input_example_say_what_to_send(
    registered: tuple[RegisterRequest, RegisteredVersion, Path],
) -> None:
    model = Model.load(str(registered[2]))
    assert [(column.name, column.required) for column in model.signature.inputs.inputs] == [
        ("prompt", True),
        ("system", False),
    ]
    assert model.signature.params.params[0].name == "max_new_tokens"
    assert model.signature.params.params[0].default == 12
    assert model.load_input_example(str(registered[2])).to_dict("records") == [{"prompt": PROMPT}]


def test_requirements_are_exact_and_without_local_version_parts(
    registered: tuple[RegisterRequest, RegisteredVersion, Path],
) -> None:
    lines = (registered[2] / "requirements.txt").read_text().split()
    assert f"torch=={metadata.version('torch').partition('+')[0]}" in lines
    assert {line.partition("==")[0] for line in lines} == {
        *("accelerate", "mlflow", "pandas", "peft", "safetensors", "tokenizers", "torch", "transformers")
    }
    assert not [line for line in lines if "+" in line or "==" not in line]


def test_only_what_serves_is_required() -> None:
    plain = {"adapter": "adapter", "loader": None, "quantization": None}

    def names(**serving: Any) -> set[str]:
        return {line.partition("==")[0] for line in requirements(plain | serving)}

    assert "peft" not in names(adapter="")
    assert names(quantization={"bits": 4}) - names() == {"bitsandbytes"}
    assert names(loader={"package": "tuneline_0"}) - names() == {"pydantic"}


def test_tags_lead_back_to_run_data_base_method_and_code(
    registered: tuple[RegisterRequest, RegisteredVersion, Path], world: World
) -> None:
    request, version, package = registered
    stored = world.client.get_model_version(version.name, str(version.version))
    assert stored.run_id == request.run_id
    assert request.candidate.weights is not None
    with safe_open(request.candidate.weights / "adapter_model.safetensors", "pt") as file:
        assert list(file.keys())
    sha = hashlib.sha256((request.candidate.weights / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert stored.tags == {
        "tuneline.package_sha256": version.digest,
        "tuneline.files_sha256": hashlib.sha256((package / "files.json").read_bytes()).hexdigest(),
        "tuneline.weights_sha256": hashlib.sha256(f'{{"adapter_model.safetensors":"{sha}"}}'.encode()).hexdigest(),
        "tuneline.run_id": request.run_id,
        "tuneline.label": "prompt_tuning",
        "tuneline.fingerprint": "c" * 64,
        "tuneline.method": "prompt_tuning",
        "tuneline.base": "tiny",
        "tuneline.base_digest": request.candidate.base.digest,
        "tuneline.data_digest": "b" * 64,
        "tuneline.rows_digest": "a" * 64,
        "tuneline.code_commit": "d" * 40,
    }


def test_the_card_says_what_it_is_with_scores_and_comparison(
    registered: tuple[RegisterRequest, RegisteredVersion, Path], world: World
) -> None:
    _, version, folder = registered
    card = (folder / "README.md").read_text(encoding="utf-8")
    for part in (
        "`tiny` tuned with prompt_tuning",
        "| bleu | 31.5 |",
        "b" * 64,
        "Licence:",
        "models:/looked-at@challenger",
    ):
        assert part in card
    assert "Winner by lowest loss: prompt_tuning." in card
    stored = world.client.get_model_version(version.name, str(version.version))
    assert "| bleu | 31.5 |" in stored.description
    assert len(stored.description) < 5000


def test_mlflow_finds_a_python_function_made_from_code(
    registered: tuple[RegisterRequest, RegisteredVersion, Path],
) -> None:
    flavor = yaml.safe_load((registered[2] / "MLmodel").read_text())["flavors"]["python_function"]
    assert flavor["model_code_path"] == "serving_model.py"
    assert "python_model" not in flavor, "that would be a pickle"


def test_the_digest_names_what_serves_and_nothing_else(world: World, base: BaseModel, tmp_path: Path) -> None:
    candidate = make_full(base, tmp_path / "model", 0)
    request = make_request(world, candidate, example=None)

    def digest(changed: dict[str, Any], place: str) -> str:
        (tmp_path / place).mkdir()
        asked = request.model_copy(update=changed)
        fill(asked, tmp_path / place)
        return describe(tmp_path / place, asked).digest

    same = digest({}, "one")
    assert digest({"metrics": {"loss": 9.9}, "run_id": "x", "prefect_url": "y"}, "two") == same
    assert digest({"max_new_tokens": 13}, "three") != same
    assert digest({"data": request.data.model_copy(update={"template": "Q {prompt} A {completion}"})}, "four") != same


def test_large_files_are_linked_not_copied(world: World, base: BaseModel, tmp_path: Path) -> None:
    candidate = make_full(base, tmp_path / "model", 0)
    (tmp_path / "package").mkdir()
    fill(make_request(world, candidate, example=None), tmp_path / "package")
    packaged = tmp_path / "package" / "model" / "model.safetensors"
    assert packaged.samefile(tmp_path / "model" / "model.safetensors")


REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_CHILD = """
import sys
from pathlib import Path
from tests.registry.worlds import *
from tasks.foundation.errors import IntegrityError
from tasks.registry.fetch import verified
from tasks.registry.register import register

folder, snapshot, revision = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
world = make_world(folder / "world")
base = resolve_base(ModelSettings(name_or_path="org/tiny", revision=revision), snapshot)
candidate = make_adapter("lora", base, folder / "adapter")
version = register(make_request(world, candidate), world.tracking, world.root)
assert verified(package_of(world, version), version.digest).holds == "adapter"
(snapshot / "config.json").open("a").write(" ")
try:
    verified(package_of(world, version), version.digest)
except IntegrityError as error:
    print(error)
print(package_of(world, version))
"""


def test_a_base_from_the_hub_is_named_by_its_revision_and_not_copied_and_verified_before_it_serves(
    base: BaseModel, tmp_path: Path
) -> None:
    """In a process of its own, since the hub's cache is chosen when its client is imported. No network is there."""
    snapshot = tmp_path / "home" / "hub" / "models--org--tiny" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    for path in base.path.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", HUB_CHILD, str(tmp_path), str(snapshot), REVISION]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said, place = done.stdout.splitlines()[-2:]
    assert "the base org/tiny has the digest" in said
    package = Path(place) / "artifacts" / "package"
    assert sorted(path.name for path in package.iterdir()) == ["adapter", "serving.json", "tokenizer"]
    assert read_json(package / "serving.json")["base"] == {"folder": "", "hub": "org/tiny", "revision": REVISION}


def test_what_the_winner_goes_on_from_stands_in_tags_and_card(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    run = "0123456789abcdef" * 2
    earlier = Source(reference=run, path=tmp_path, digest="5" * 64, holds="adapter", run_id=run)
    candidate = make_adapter("lora", base, tmp_path / "adapter")
    candidate = candidate.model_copy(update={"method": candidate.method | {"init_from": run}})
    asked = make_request(world, candidate, name, example=None, sources={"init_from": earlier})
    version = register(asked, world.tracking, world.root)
    stored = world.client.get_model_version(name, str(version.version))
    assert stored.tags["tuneline.source.init_from.run_id"] == run
    assert stored.tags["tuneline.source.init_from.sha256"] == "5" * 64
    assert f"| init_from | run {run} (sha256 {'5' * 64}) |" in stored.description


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "prompt_tuning", "num_virtual_tokens": 6},
        {"kind": "distillation", "student": {"kind": "prompt_tuning", "num_virtual_tokens": 6}},
        {"kind": "peft_config", "config": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 6}},
    ],
    ids=lambda method: method["kind"],
)
def test_virtual_tokens_take_positions_whatever_their_method_stands_in(
    world: World, base: BaseModel, tmp_path: Path, method: dict[str, Any]
) -> None:
    candidate = make_adapter("prompt_tuning", base, tmp_path / "adapter").model_copy(update={"method": method})
    (tmp_path / "package").mkdir()
    fill(make_request(world, candidate, "positions"), tmp_path / "package")
    assert read_json(tmp_path / "package" / "serving.json")["positions"] == 160 - 6
