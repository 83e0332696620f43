"""What Prefect's form hands over means what the command line means, and is refused in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from configs.choices import choices, experiment_file
from configs.loading import experiment_of, load_experiment
from configs.one_cell import OneCell, document_of
from configs.overrides import override_fields, override_texts
from tasks.foundation.errors import ConfigError

CELL = OneCell(base="embedded:tiny-llama", method="lora", data="embedded:records-en")
EXPERIMENT = """\
model: {name_or_path: embedded:tiny-llama}
data: {train: embedded:records-en}
methods: [{kind: lora}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiments" / "own.yaml"
    path.parent.mkdir()
    path.write_text(EXPERIMENT, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"training.max_steps": 100}, ["training.max_steps=100"]),
        ({"training": {"max_steps": 100}}, ["training.max_steps=100"]),
        ({"training": {"deterministic": False}}, ["training.deterministic=false"]),
        ({"methods.lora.learning_rate": 1e-05}, ["methods.lora.learning_rate=1e-05"]),
        ({"training.seeds": [0, 1]}, ["training.seeds=[0, 1]"]),
        ({"data.eval": None}, ["data.eval=null"]),
        ({"model": {"dtype": "float32"}}, ["model.dtype=float32"]),
        ({"training.max_steps": "100"}, ["training.max_steps=100"]),
        ({"methods": [{"kind": "full", "name": "café: 1"}]}, ['methods=[{"kind": "full", "name": "café: 1"}]']),
        ({"methods.lora.rank_pattern": {}}, ["methods.lora.rank_pattern={}"]),
    ],
)
def test_an_object_means_what_the_command_line_means(fields: dict[str, Any], texts: list[str]) -> None:
    assert override_texts(fields) == texts


def test_values_of_json_arrive_as_they_were_meant(file: Path) -> None:
    fields = {"training": {"max_steps": 7, "learning_rate": 1e-05, "seeds": [3]}, "methods": [{"kind": "full"}]}
    settings = load_experiment(file, override_texts(fields))
    assert (settings.training.max_steps, settings.training.learning_rate) == (7, 1e-05)
    assert (settings.training.seeds, settings.methods[0].kind) == ((3,), "full")


def test_a_key_with_an_equals_sign_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds '='"):
        override_texts({"training.max_steps=1": 2})


def test_texts_become_fields_and_texts_again_and_of_a_key_the_last_one_counts() -> None:
    texts = ["training.max_steps=1", "training={}", "training.max_steps=2", 'model.name_or_path="a=b"']
    assert override_texts(override_fields(texts)) == texts[1:]


@pytest.mark.parametrize(
    ("fields", "typed"),
    [
        ({"training.max_stepz": 1}, "training.max_stepz=1"),
        ({"training": {"max_steps": "many"}}, "training.max_steps=many"),
    ],
)
def test_a_wrong_value_is_refused_as_on_the_command_line(file: Path, fields: dict[str, Any], typed: str) -> None:
    with pytest.raises(ConfigError) as form:
        load_experiment(file, override_texts(fields))
    with pytest.raises(ConfigError) as line:
        load_experiment(file, [typed])
    assert str(form.value) == str(line.value)


def test_one_cell_becomes_an_experiment_of_one_method() -> None:
    cell = CELL.model_copy(update={"seed": 3, "max_steps": 5, "learning_rate": 1e-3, "register_as": "toy"})
    settings = experiment_of(document_of(cell), ["methods.0.r=4"])
    (method,) = settings.methods
    assert (method.kind, method.learning_rate, method.model_dump()["r"]) == ("lora", 1e-3, 4)
    assert (settings.training.seeds, settings.training.max_steps) == ((3,), 5)
    assert (settings.registry.model, settings.name) == ("toy", "fine-tune-lora-records-en-on-tiny-llama-3")


def test_zeros_of_the_form_leave_the_choice_to_the_method_and_to_the_epochs() -> None:
    settings = experiment_of(document_of(CELL))
    assert (settings.methods[0].learning_rate, settings.training.max_steps, settings.registry.model) == (None,) * 3


def test_a_base_of_a_hub_comes_with_its_commit() -> None:
    cell = CELL.model_copy(update={"base": f"Qwen/Qwen2.5-0.5B@{'a' * 40}"})
    settings = experiment_of(document_of(cell))
    assert (settings.model.name_or_path, settings.model.revision) == ("Qwen/Qwen2.5-0.5B", "a" * 40)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "lorra"}, r'argument method: methods\[0\]\.kind: no method "lorra".*Did you mean lora\?'),
        ({"max_steps": -1}, r"argument max_steps: training\.max_steps"),
        ({"learning_rate": -1.0}, r"argument learning_rate: methods\[0\]\.learning_rate"),
        ({"register_as": "a/b"}, r"argument register_as: registry\.model"),
    ],
)
def test_a_wrong_argument_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment_of(document_of(CELL.model_copy(update=wrong)))


def test_choices_are_what_lies_here(file: Path, tmp_path: Path) -> None:
    for name in ("models/tiny/config.json", "data/rows.jsonl", "data/notes.md", "experiments/broken.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("model: [", encoding="utf-8")
    listed = f"bases: [Qwen/Qwen2.5-0.5B@{'a' * 40}]\ndata: [/mnt/rows.csv]\n"
    (tmp_path / "experiments" / "choices.yaml").write_text(listed, encoding="utf-8")
    found = choices(tmp_path)
    assert found.experiment[0] == "experiments/own.yaml" and "shipped:demo" in found.experiment
    assert not {"experiments/broken.yaml", "experiments/choices.yaml", "shipped:template"} & set(found.experiment)
    assert found.base == ("embedded:tiny-llama", "models/tiny", f"Qwen/Qwen2.5-0.5B@{'a' * 40}")
    assert "embedded:records-en" in found.data and found.data[-2:] == ("data/rows.jsonl", "/mnt/rows.csv")
    assert "lora" in found.method


def test_every_shipped_experiment_that_is_offered_is_found_by_its_name(tmp_path: Path) -> None:
    offered = choices(tmp_path).experiment
    assert offered and all(experiment_file(name).is_file() for name in offered)


def test_a_list_of_choices_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "choices.yaml").write_text("base: [x]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"choices\.yaml: is no list of choices"):
        choices(tmp_path)
