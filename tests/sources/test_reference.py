"""What a reference means is told by its form, before anybody is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError
from tasks.methods import parse_method
from tasks.sources import check_sources, parse_reference

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("text", "kind", "parts"),
    [
        ("0123456789abcdef" * 2, "run", {}),
        ("models:/tuned/3", "registered", {"name": "tuned", "version": "3"}),
        ("models:/tuned model@champion", "registered", {"name": "tuned model", "alias": "champion"}),
        (f"org/model@{COMMIT}", "hub", {"name": "org/model", "revision": COMMIT}),
        ("embedded:tiny-llama", "embedded", {}),
        ("runs/artifacts/train/f00", "folder", {}),
        ("./" + "0123456789abcdef" * 2, "folder", {}),
        ("/data/adapter@home", "folder", {}),
    ],
)
def test_each_kind_is_known_by_its_form(text: str, kind: str, parts: dict[str, str]) -> None:
    found = parse_reference(text, "methods[lora].init_from")
    said = found.model_dump(include={"name", "version", "alias", "revision"}, exclude_defaults=True)
    assert (found.kind, said, found.text) == (kind, parts, text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models:/tuned", "models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("models:/tuned/latest", "models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("runs:/0123/model", "Write the run's id alone"),
        ("org/model@main", "branches move"),
        ("embedded:llama", "embedded:tiny-llama"),
        (" ", "an empty reference"),
    ],
)
def test_what_begins_like_a_kind_and_is_none_is_refused_with_the_form(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reference(text, "methods[lora].init_from")
    assert str(caught.value).startswith("methods[lora].init_from: ") and said in str(caught.value)


def test_a_method_that_trains_nothing_goes_on_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none trains nothing.*model\.name_or_path"):
        check_sources(parse_method({"kind": "none", "init_from": str(tmp_path)}))


def test_a_run_is_not_asked_for_before_the_experiment_runs() -> None:
    check_sources(parse_method({"kind": "lora", "init_from": "0123456789abcdef" * 2}))
