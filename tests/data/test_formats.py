from typing import Any

import pytest

from tasks.data.formats import Content, RowError, all_formats, recognise
from tasks.data.rows import content_key, make_row
from tasks.data.settings import Columns
from tasks.foundation.errors import ConfigError, DataError
from tests.data.worlds import chat


def read(record: dict[str, Any], *, columns: Columns | None = None) -> Content:
    return recognise(frozenset(record), name=None, columns=columns or {}, where="f").to_content(record)


def turns(*contents: str, key: str = "content", speaker: str = "role") -> list[dict[str, str]]:
    names = ("user", "assistant") if speaker == "role" else ("human", "gpt")
    return [{speaker: names[i % 2], key: text} for i, text in enumerate(contents)]


GOOD: list[tuple[str, dict[str, Any], Content]] = [
    ("alpaca", {"instruction": "Say hi", "input": "", "output": "Hi"}, chat("Say hi", "Hi")),
    ("alpaca", {"instruction": "Translate", "input": "Hi", "output": "Salut"}, chat("Translate\n\nHi", "Salut")),
    ("alpaca", {"instruction": "c", "output": "d", "history": [["a", "b"]]}, chat("a", "b", "c", "d")),
    ("sharegpt", {"conversations": turns("a", "b", key="value", speaker="from")}, chat("a", "b")),
    ("sharegpt", {"conversations": turns("a", "b"), "system": "S"}, chat("a", "b", system="S")),
    ("messages", {"messages": turns("a", "b", "c", "d")}, chat("a", "b", "c", "d")),
    ("prompt_completion", {"prompt": "你好", "completion": "世界", "id": 3}, chat("你好", "世界")),
    ("prompt_completion", {"question": "1+1?", "answer": "2"}, chat("1+1?", "2")),
    ("prompt_completion", {"input": "a", "output": "b"}, chat("a", "b")),
    ("prompt_completion", {"instruction": "a", "response": "b"}, chat("a", "b")),
    ("text", {"text": "One day."}, "One day."),
]


@pytest.mark.parametrize(("name", "record", "content"), GOOD)
def test_a_row_is_recognised_by_its_fields_and_read(name: str, record: dict[str, Any], content: Content) -> None:
    assert recognise(frozenset(record), name=None, columns={}, where="f").format.name == name
    assert read(record) == content


def test_every_format_is_discovered_and_has_a_case() -> None:
    assert set(all_formats()) == {name for name, _, _ in GOOD}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("missing_field", {"prompt": "a", "completion": None}),
    ("empty_field", {"prompt": " \n", "completion": "b"}),
    ("wrong_type", {"prompt": "a", "completion": 3}),
    ("nul_character", {"prompt": "a\0", "completion": "b"}),
    ("lone_surrogate", {"prompt": "a\ud800", "completion": "b"}),
    ("wrong_type", {"messages": "hello"}),
    ("missing_field", {"messages": None}),
    ("empty_field", {"messages": []}),
    ("wrong_type", {"messages": ["hello"]}),
    ("missing_field", {"messages": [{"role": "user"}]}),
    ("unsupported_role", {"messages": [{"role": "tool", "content": "x"}]}),
    ("bad_role_order", {"messages": turns("a")}),
    ("bad_role_order", {"messages": [*turns("a", "b"), *turns("c")]}),
    ("bad_role_order", {"messages": turns("a", "b")[1:]}),
    ("bad_role_order", {"messages": [{"role": "system", "content": "S"}]}),
    ("wrong_type", {"instruction": "c", "output": "d", "history": [["a"]]}),
    ("empty_field", {"text": ""}),
]


@pytest.mark.parametrize(("reason", "record"), BAD)
def test_a_row_that_cannot_be_used_has_a_reason(reason: str, record: dict[str, Any]) -> None:
    with pytest.raises(RowError) as refused:
        read(record)
    assert refused.value.reason == reason


def test_a_column_mapping_implies_the_format() -> None:
    assert read({"mr": "a", "ref": "b"}, columns={"prompt": "mr", "completion": "ref"}) == chat("a", "b")


def test_a_mapping_of_text_needs_no_more_where_nothing_looks_like_an_answer() -> None:
    assert read({"body": "a", "url": "b"}, columns={"text": "body"}) == "a"


def test_a_mapping_wins_over_columns_that_carry_the_same_name() -> None:
    record = {"prompt": "old", "question": "new", "completion": "b"}
    assert read(record, columns={"prompt": "question"}) == chat("new", "b")
    assert read({"q": "a", "response": "b"}, columns={"prompt": "q"}) == chat("a", "b")


@pytest.mark.parametrize(
    "fields", [{"mr", "ref"}, {"question", "answer", "context"}, {"text", "label"}, {"prompt", "chosen", "rejected"}]
)
def test_columns_that_could_mean_several_things_are_refused_with_the_way_to_map_them(fields: set[str]) -> None:
    with pytest.raises(DataError, match=r"data\.columns=") as refused:
        recognise(frozenset(fields), name=None, columns={}, where="rows.csv")
    assert all(repr(field) in str(refused.value) for field in fields)
    assert refused.value.where == "rows.csv"


def test_columns_that_fit_two_formats_ask_for_the_format() -> None:
    with pytest.raises(DataError, match=r"fit messages and prompt_completion.*data\.format"):
        recognise(frozenset({"messages", "prompt", "completion"}), name=None, columns={}, where="f")
    found = recognise(frozenset({"messages", "prompt", "completion"}), name="messages", columns={}, where="f")
    assert found.format.name == "messages"


def test_a_mapped_column_that_is_missing_gets_a_suggestion() -> None:
    with pytest.raises(DataError, match="Did you mean 'ref'"):
        recognise(frozenset({"mr", "ref"}), name=None, columns={"prompt": "mr", "completion": "reff"}, where="f")


def test_unknown_fields_and_formats_in_the_settings_are_configuration_errors() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns"):
        recognise(frozenset({"mr"}), name=None, columns={"promt": "mr"}, where="f")
    with pytest.raises(ConfigError, match="Did you mean alpaca"):
        recognise(frozenset({"mr"}), name="alpacca", columns={}, where="f")


def test_equal_content_has_one_id_whatever_its_format() -> None:
    alpaca = make_row(read({"instruction": "a", "output": "b"}), "x:1")
    messages = make_row(read({"messages": turns("a", "b")}), "y:7")
    assert alpaca.id == messages.id
    assert make_row(chat("a", "c"), "x:1").id != alpaca.id


def test_raw_text_says_the_same_as_its_conversation() -> None:
    assert content_key(make_row("a\nb", "x:1")) == content_key(make_row(chat("a", "b"), "x:1"))
    assert content_key(make_row(chat("a", "b "), "x:1")) == content_key(make_row(chat(" a", "b"), "x:1"))
    assert content_key(make_row(chat("a", "c"), "x:1")) != content_key(make_row(chat("a", "b"), "x:1"))
