"""`key=value` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.document import read_document
from configs.loading import load_experiment
from configs.overrides import apply_overrides
from tests.configs.worlds import SMALL, refused, written


@pytest.mark.parametrize("key", ["methods.1.r", "methods[1].r", "methods.lora.r"])
def test_an_entry_of_a_list_is_named_by_position_or_kind(tmp_path: Path, key: str) -> None:
    experiment = load_experiment(written(tmp_path, SMALL), [f"{key}=4"], {})
    assert experiment.methods[1].model_dump()["r"] == 4


def test_a_method_is_found_by_its_own_name_first(tmp_path: Path) -> None:
    text = SMALL + "  - {kind: lora, name: wide}\n"
    experiment = load_experiment(written(tmp_path, text), ["methods.wide.r=32"], {})
    assert [method.model_dump().get("r") for method in experiment.methods] == [None, 8, 32]


def test_two_methods_of_one_kind_must_be_named_by_position(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "  - {kind: lora}\n")
    assert refused(path, ["methods.lora.r=4"]) == [
        'override methods.lora.r=4: methods: "lora" stands for several entries (1, 2). '
        "Allowed: 0 (none), 1 (lora), 2 (lora). Name it by its position."
    ]


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.max_steps=10", "training", "max_steps", 10),
        ("training.learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("training.seeds=[0, 1]", "training", "seeds", (0, 1)),
        ("training.gradient_checkpointing=yes", "training", "gradient_checkpointing", True),
        ("tracking.uri=sqlite:///x=y.db", "tracking", "uri", "sqlite:///x=y.db"),
        ("data.eval=", "data", "eval", None),
        ("data.columns={prompt: mr, completion: ref}", "data", "columns", {"prompt": "mr", "completion": "ref"}),
        ("data.columns.prompt=mr", "data", "columns", {"prompt": "mr"}),
        (' data.template="Q: {prompt} A: {completion}"', "data", "template", "Q: {prompt} A: {completion}"),
    ],
)
def test_a_value_is_read_as_in_the_file_also_where_the_file_has_no_such_section(
    tmp_path: Path, override: str, section: str, key: str, value: object
) -> None:
    experiment = load_experiment(written(tmp_path, SMALL), [override], {})
    assert experiment.model_dump()[section][key] == value


def test_the_later_override_wins(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    assert load_experiment(path, ["training={max_steps: 3}", "training.max_steps=5"], {}).training.max_steps == 5
    assert load_experiment(path, ["training.max_steps=5", "training={seeds: [1]}"], {}).training.max_steps is None


def test_a_wrong_value_is_blamed_on_the_override_and_not_on_a_line(tmp_path: Path) -> None:
    assert refused(written(tmp_path, SMALL), ["methods.1.r=much"]) == [
        'override methods.1.r=much: methods[1].r: "much" does not fit. Allowed: a whole number.'
    ]


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("max_steps", "override max_steps: not key=value. Allowed: for example training.max_steps=100"),
        ("=4", "override =4: not key=value"),
        ("a..b=4", "override a..b=4: not key=value"),
        ("a[x]=4", "override a[x]=4: not key=value"),
        ("trainning.max_steps=4", "override trainning.max_steps=4: trainning: unknown key. Did you mean training?"),
        (
            "training.max_step=4",
            "override training.max_step=4: training.max_step: unknown key. Did you mean max_steps?",
        ),
        ("lr=4", "override lr=4: lr: unknown key. Use training.learning_rate."),
        ("methods.9.r=4", 'methods: "9" is not there. Allowed: 0 (none), 1 (lora). Name it by its position.'),
        ("methods.ia3.r=4", 'methods: "ia3" is not there. Allowed: 0 (none), 1 (lora)'),
        ("data.train.0.path=x", 'data.train is "rows.jsonl", it has no "0" inside. Set data.train as a whole.'),
        ("data.template={prompt} => {completion}", "Quote a value that holds YAML's own characters"),
        ("training.seeds=[0", "override training.seeds=[0: not valid YAML"),
        ("a.b.c.d.e.f.g.h.i.j.k=1", "the key has 11 parts. Allowed: at most 10."),
        ("name=\ud800", "is not allowed in YAML"),
        ("name=\x1b[31m", "is not allowed in YAML"),
        ("methods=[]", "methods: an empty list does not fit. Allowed: at least 1."),
        ("methods.²=4", '"²" is not there'),
    ],
)
def test_a_wrong_override_says_what_would_be_right(tmp_path: Path, override: str, problem: str) -> None:
    assert problem in refused(written(tmp_path, SMALL), [override])[0]


def test_the_document_that_was_read_is_left_as_it_is(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, SMALL))
    changed = apply_overrides(document, ["methods.lora.r=4", "training.max_steps=3"])
    assert (changed.data["methods"][1]["r"], changed.data["training"]) == (4, {"max_steps": 3})
    assert document == read_document(tmp_path / "a.yaml")
