"""Values and keys in messages."""

from __future__ import annotations

import pytest

from configs.wording import key_text, listed, nearest, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", '"plain"'),
        ("two\nlines", '"two\\nlines"'),
        ("\x1b[31mred", '"\\u001b[31mred"'),
        ("\ud800", '"\\ud800"'),
        ("中文", '"中文"'),
        (3, "3"),
        (None, "null"),
        (True, "true"),
        ([], "an empty list"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "a mapping"),
        ("x" * 100, '"' + "x" * 59 + "…"),
    ],
)
def test_a_value_is_shown_on_one_line_without_control_characters(value: object, text: str) -> None:
    assert shown(value) == text


def test_a_key_is_written_as_the_user_would_write_it() -> None:
    assert key_text(("methods", 2, "r")) == "methods[2].r"
    assert key_text(("data", "columns", "a b")) == 'data.columns."a b"'


def test_the_nearest_word_ignores_case_and_dashes() -> None:
    assert nearest("Target-Modules", ["target_modules", "r"]) == "target_modules"
    assert nearest("zzzz", ["r", "lora_alpha"]) == ""


def test_a_long_list_is_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(map(str, range(30))).endswith("23, … (30 in all)")
