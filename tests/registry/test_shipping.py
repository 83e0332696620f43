"""An adapter that PEFT cannot load is served with the code that can, where tuneline is not installed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import tasks.methods
from tasks.foundation import discovery, imports
from tasks.foundation.imports import imported_by
from tasks.methods import Candidate, Source, parse_method
from tasks.methods.loading import load_candidate
from tasks.models import BaseModel
from tasks.registry.card import model_card
from tasks.registry.register import register
from tasks.registry.shipping import is_plain_peft
from tests.methods.cases import attached, save, trainable_cases
from tests.registry.test_package import files_of
from tests.registry.test_serving import PLAIN, ask_stranger
from tests.registry.worlds import (
    NEW_TOKENS,
    PROMPT,
    World,
    greedy,
    make_adapter,
    make_base,
    make_request,
    package_of,
    read_json,
)

METHOD = {"kind": "own_method"}


@pytest.fixture
def own_method(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The own method is a file among the methods, for these tests."""
    (tmp_path / "methods").mkdir()
    shutil.copyfile(Path(__file__).with_name("own_method.py"), tmp_path / "methods" / "own_method.py")
    monkeypatch.setattr(tasks.methods, "__path__", [*tasks.methods.__path__, str(tmp_path / "methods")])
    _forget()
    yield
    _forget()
    sys.modules.pop("tasks.methods.own_method", None)


def _forget() -> None:
    """Where modules lie changes between tests, and in no real process."""
    for remembered in (discovery.modules_of, imports._file_of, imports.needed_within):
        remembered.cache_clear()


def disturbed(settings: Mapping[str, Any], base: BaseModel, folder: Path) -> Candidate:
    """An adapter of random weights, which is quicker than training and shows more, saved as training would."""
    method, model = attached(settings, base)
    with torch.no_grad():
        for part in model.parameters():
            if part.requires_grad:
                part += torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    folder.mkdir()
    save(method, model, folder)
    label = str(settings["kind"])
    return Candidate(label=label, base=base, method=dict(settings), weights=folder, holds="adapter")


def test_an_adapter_of_every_kind_answers_where_tuneline_is_not_installed(world: World, tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", biased=True)
    cases = {str(case["kind"]): case for case in reversed(trainable_cases())}  # of each kind the defaults
    expected = {}
    for kind, settings in sorted(cases.items()):
        if parse_method(settings).holds == "adapter":
            candidate = disturbed(settings, base, tmp_path / kind)
            register(request_for(world, candidate, f"every-{kind}"), world.tracking, world.root)
            expected[f"every-{kind}"] = [greedy(load_candidate(candidate), base, PLAIN, PROMPT)]
    assert ask_stranger(tmp_path, world.tracking.uri, [PROMPT], list(expected)) == expected
    assert len({answer for (answer,) in expected.values()}) > len(expected) / 2, "else this would prove little"


def make_own(base: BaseModel, folder: Path, seed: int = 0) -> Candidate:
    """Random factors, saved as training would."""
    method = parse_method(METHOD)
    folder.mkdir()
    factors = torch.rand(base.facts.hidden_size, generator=torch.Generator().manual_seed(seed)) * 3
    method.save(method.attach(AutoModelForCausalLM.from_pretrained(base.path)), folder, {"factors": factors})
    return Candidate(label="own", base=base, method=METHOD, weights=folder, holds="adapter")


def answer_of(candidate: Candidate) -> str:
    """Greedy, with the factors multiplied into the output layer by hand."""
    assert candidate.weights is not None
    model = AutoModelForCausalLM.from_pretrained(candidate.base.path)
    model.lm_head.weight.data *= load_file(candidate.weights / "parts" / "factors.safetensors")["factors"]
    return greedy(model, candidate.base, PLAIN, PROMPT)


def request_for(world: World, candidate: Candidate, name: str, **changed: Any) -> Any:
    return make_request(world, candidate, name, example=None, **changed)


@pytest.mark.usefixtures("own_method")
def test_it_answers_where_tuneline_is_not_installed(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    candidate = make_own(base, tmp_path / "own")
    version = register(request_for(world, candidate, name), world.tracking, world.root)
    assert ask_stranger(tmp_path, world.tracking.uri, [PROMPT], [name]) == {name: [answer_of(candidate)]}
    files = files_of(package_of(world, version))
    assert "artifacts/package/adapter/parts/factors.safetensors" in files
    assert not [file for file in files if file.endswith(".pyc")]


@pytest.mark.usefixtures("own_method")
def test_two_versions_with_other_code_are_served_side_by_side(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    candidate = make_own(base, tmp_path / "own")
    first = register(request_for(world, candidate, name), world.tracking, world.root)
    source = tmp_path / "methods" / "own_method.py"
    source.write_text(source.read_text().replace('["factors"]\n', '["factors"] * -1\n'))
    second = register(request_for(world, candidate, f"{name}-2"), world.tracking, world.root)
    assert first.digest != second.digest
    frame, answers = pd.DataFrame({"prompt": [PROMPT]}), []
    for version in (first, second):
        loaded = mlflow.pyfunc.load_model(str(package_of(world, version)), suppress_warnings=True)
        answers.append(loaded.predict(frame, params={"max_new_tokens": NEW_TOKENS})[0])
    assert answers[0] == answer_of(candidate) != answers[1]


@pytest.mark.usefixtures("own_method")
def test_the_code_is_the_method_with_what_it_imports_and_nothing_above(base: BaseModel) -> None:
    found = imported_by("tasks.methods.own_method")
    assert {"tasks", "tasks.methods", "tasks.methods._base", "tasks.foundation.errors"} <= found.keys()
    above = ("tasks.training", "tasks.registry", "tasks.tracking", "tasks.launch", "tasks.workspace", "tasks.sources")
    assert not [name for name in found if name.startswith(above)]


@pytest.mark.usefixtures("own_method")
def test_the_package_and_its_card_name_no_place_of_this_machine(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    teacher = Source(reference=str(tmp_path / "teacher"), path=tmp_path, digest="7" * 64, holds="adapter")
    candidate = make_own(base, tmp_path / "own")
    candidate = candidate.model_copy(update={"method": METHOD | {"teachers": [teacher.reference]}})
    request = request_for(world, candidate, name, sources={"teachers.0": teacher})
    package = package_of(world, register(request, world.tracking, world.root)) / "artifacts" / "package"
    serving = read_json(package / "serving.json")
    assert serving["loader"]["settings"]["teachers"] == [f"sha256:{'7' * 64}"]
    card = model_card(request)
    assert "| teachers.0 | teacher (sha256 777" in card and "which PEFT alone cannot load" in card
    assert str(tmp_path) not in card + (package / "serving.json").read_text()


def test_what_peft_loads_brings_no_code(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    candidate = make_adapter("lora", base, tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").write_text("PEFT's own")
    assert candidate.weights is not None and is_plain_peft(parse_method(candidate.method), candidate.weights)
    version = register(request_for(world, candidate, name), world.tracking, world.root)
    package = package_of(world, version) / "artifacts" / "package"
    assert sorted(path.name for path in package.iterdir()) == ["adapter", "base", "serving.json"]
    assert read_json(package / "serving.json")["loader"] is None
    (tmp_path / "adapter" / "more.safetensors").write_bytes(b"")
    assert not is_plain_peft(parse_method(candidate.method), candidate.weights)
