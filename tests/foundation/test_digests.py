"""What keeps a digest, and what changes it."""

from __future__ import annotations

import ast
import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.foundation import digests
from tasks.foundation.digests import (
    canonical_json,
    code_digest,
    digest_file,
    digest_text,
    digest_tree,
    digest_value,
    library_versions,
)
from tasks.foundation.values import Value


class Pair(Value):
    """A value."""

    b: float
    a: Path


DigestOf = Callable[[str], str]

CODE = '''\
"""Says what the module is for."""

LIMIT = 3  # rows


def area(width: int) -> str:
    """Says what the function is for."""
    return "a" + str(width * LIMIT)


class Thing:
    """Says what the class is for."""

    size: int = 1
    """Says what the field is for."""
'''


@pytest.fixture
def digest_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestOf:
    """The digest of a module with the given source, and always the same name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write_and_digest(source: str) -> str:
        (tmp_path / "toy_code.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        code_digest.cache_clear()
        return code_digest("toy_code")

    return write_and_digest


def test_the_order_of_keys_changes_nothing_and_text_stays_readable() -> None:
    assert canonical_json({"b": [1, {"d": 2, "c": "质"}], "a": None}) == '{"a":null,"b":[1,{"c":"质","d":2}]}'
    assert digest_value({"b": 1, "a": 2}) == digest_value({"a": 2, "b": 1})
    assert digest_value([1, 2]) != digest_value([2, 1])


def test_a_value_is_the_json_of_its_fields() -> None:
    assert canonical_json(Pair(b=0.5, a=Path("x/y"))) == '{"a":"x/y","b":0.5}'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_know_are_refused(number: float) -> None:
    for value in ({"a": [number]}, Pair(b=number, a=Path("a"))):
        with pytest.raises(ValueError, match="JSON"):
            canonical_json(value)


def test_texts_that_are_no_utf8_have_digests_of_their_own() -> None:
    assert digest_text("\ud800") != digest_text("\udfff")
    assert digest_text("é") == hashlib.sha256("é".encode()).hexdigest()


def test_a_large_file_has_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)

    assert digest_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_a_trees_digest_depends_on_names_and_bytes_and_not_on_their_order(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / name).write_text(text)
    before = digest_tree(tmp_path, ["a", "b"])

    assert digest_tree(tmp_path, ["b", "a"]) == before
    assert digest_tree(tmp_path, ["c", "b"]) != before
    (tmp_path / "b").write_text("3")
    assert digest_tree(tmp_path, ["a", "b"]) != before


def test_comments_docstrings_and_formatting_do_not_change_what_code_does(digest_of: DigestOf) -> None:
    before = digest_of(CODE)

    assert digest_of(CODE.replace("Says what", "Tells for what reason").replace("# rows", "# of them")) == before
    assert digest_of(CODE.replace("\n\n\n", "\n\n").replace("width: int", "width:  int")) == before
    assert digest_of(CODE.replace('    """Says what the function is for."""\n', "")) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ('"a"', '"b"'), ("width *", "width +"), ("size: int", "count: int"), ("= 1", "= 2")],
)
def test_a_changed_constant_or_operation_or_name_does(digest_of: DigestOf, old: str, new: str) -> None:
    assert CODE.count(old) == 1
    assert digest_of(CODE.replace(old, new)) != digest_of(CODE)


def test_a_package_counts_with_all_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "toy_package"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "deep/__init__.py", "deep/inner.py"):
        (package / name).touch()

    def digest() -> str:
        code_digest.cache_clear()
        return code_digest("toy_package")

    before = digest()
    (package / "deep" / "inner.py").write_text("X = 1")
    changed = digest()
    (package / "new.py").touch()

    assert len({before, changed, digest()}) == 3


def test_a_module_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        code_digest("no_such_module")


def test_versions_name_what_is_absent_too() -> None:
    versions = library_versions("pydantic", "no-such-library")

    assert versions["no-such-library"] == "absent"
    assert versions["pydantic"][0].isdigit()


def test_a_tree_whose_parsing_another_thread_disturbed_is_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.11 says so with a SystemError (gh-106905); it was seen once in a flow with two cells."""
    honest, disturbed = ast.parse, [SystemError("AST constructor recursion depth mismatch")] * 2

    def parse(text: str) -> ast.Module:
        if disturbed:
            raise disturbed.pop()
        return honest(text)

    code_digest.cache_clear()
    expected = code_digest("tasks.foundation.values")
    code_digest.cache_clear()
    monkeypatch.setattr(digests.ast, "parse", parse)
    assert code_digest("tasks.foundation.values") == expected
    assert not disturbed
