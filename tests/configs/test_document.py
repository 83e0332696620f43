"""What the YAML reader accepts, and how it refuses the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.document import read_document
from tests.configs.worlds import SMALL, refused, written


def test_every_key_knows_its_line(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, SMALL, "a.yaml"))
    assert document.where(("data", "train")) == f"{tmp_path}/a.yaml:3: data.train"
    assert document.where(("methods", 1, "r")) == f"{tmp_path}/a.yaml:6: methods[1].r"


def test_a_key_that_is_not_there_is_placed_at_its_section(tmp_path: Path) -> None:
    document = read_document(written(tmp_path, SMALL))
    assert document.where(("data", "eval")).endswith("a.yaml:2: data.eval")
    assert document.where(("training", "max_steps")).endswith("a.yaml: training.max_steps")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E-2", 1e-2),
        ("3.0e-3", 3e-3),
        ("1.e3", 1e3),
        (".5", 0.5),
        ("+1e+3", 1e3),
        ("010", 10),
        ("1_000", 1000),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        ("yes", True),
        ("Off", False),
        ("null", None),
        ("", None),
        ("~", None),
        ("none", "none"),
        ("'1e-3'", "1e-3"),
        ("!!str 12", "12"),
        ("é中文", "é中文"),
    ],
)
def test_a_scalar_means_what_a_reader_expects(tmp_path: Path, text: str, value: object) -> None:
    read = read_document(written(tmp_path, f"key: {text}\n")).data["key"]
    assert (read, type(read)) == (value, type(value))


def test_keys_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    assert read_document(written(tmp_path, "no: 1\n12: 2\n")).data == {"no": 1, "12": 2}


def test_anchors_and_merge_keys_work_and_own_keys_win(tmp_path: Path) -> None:
    text = "methods:\n  - &base {kind: lora, r: 8}\n  - {<<: *base, r: 16}\n"
    assert read_document(written(tmp_path, text)).data["methods"][1] == {"kind": "lora", "r": 16}


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\n")
    assert read_document(path).data == {"name": "a"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "a.yaml: the file is empty. Start from"),
        ("# only a comment\n", "a.yaml: the file is empty"),
        (
            "- a\n- b\n",
            "a.yaml:1: the file holds a list of 2. Allowed: a mapping with the keys model, data and methods.",
        ),
        ("just text\n", 'a.yaml:1: the file holds "just text"'),
        ("name: a\nmodel: {a: 1}\nname: b\n", "a.yaml:3: name: stands twice, in lines 1 and 3. Keep one of them."),
        ("methods:\n  - kind: lora\n    r: 4\n    r: 8\n", "a.yaml:4: methods[0].r: stands twice, in lines 3 and 4"),
        ("model:\n\tname: a\n", "a.yaml:2: a tab; YAML indents with spaces"),
        ("name: a\n---\nname: b\n", "a.yaml:2: a second document starts (---); an experiment file holds one"),
        ("name: [a\nmodel: b\n", "a.yaml:2: not valid YAML (column 6): "),
        ("name: 'a\n", "a.yaml:2: not valid YAML (column 1): "),
        ("name: *missing\n", "a.yaml:1: not valid YAML (column 7): found undefined alias"),
        ("name: !!python/object:os.system x\n", 'a.yaml:1: name: the tag "tag:yaml.org,2002:python/object:os.system"'),
        ("name: !mine x\n", 'a.yaml:1: name: the tag "!mine" is not allowed. Write a plain value.'),
        ("? [a, b]\n: c\n", "a.yaml:1: a key must be plain text, not a list or a mapping"),
        ("a: b\n<<: 3\n", "a.yaml:2: << needs a mapping, or a list of mappings"),
        ("a: &a [*a]\n", "refers to itself"),
        (f"a: {'9' * 5000}\n", "is not a number that can be read"),
        ("a: !!int x\n", 'a.yaml:1: a: "x" is not a number that can be read'),
        ('a: "\\uD800"\n', "a.yaml"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    assert line in refused(written(tmp_path, text))[0]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"name: a\nmodel: \xff\n", "a.yaml:2: the byte 0xff is not UTF-8. Save the file as UTF-8."),
        (b"name: a\nmodel: \x00\n", "a.yaml:2: the character '\\x00' is not allowed in YAML. Remove it."),
        ("name: a\n".encode("utf-16"), "a.yaml:1: the byte 0xff is not UTF-8"),
        (b"a: 1\n" * 60_000, "a.yaml: is too large for an experiment file. Allowed: 256 KiB."),
    ],
)
def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path, raw: bytes, line: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(raw)
    assert refused(path)[0].startswith(line)


def test_aliases_cannot_multiply_without_bound(tmp_path: Path) -> None:
    levels = "\n".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}'] * 9)}]" for n in range(1, 9))
    problem = refused(written(tmp_path, f"k0: &k0 [x]\n{levels}\n"))[0]
    assert "aliases expand to more than 20000 values" in problem


def test_many_aliases_are_refused_before_they_are_followed(tmp_path: Path) -> None:
    assert "more than 100 aliases" in refused(written(tmp_path, f"a: &a x\nb: [{'*a, ' * 200}]\n"))[0]


@pytest.mark.parametrize("text", ["a: " + "[" * 50_000, "{a: " * 5_000, "- " * 3_000 + "x"])
def test_deep_nesting_is_refused_before_it_hurts(tmp_path: Path, text: str) -> None:
    assert "nested more than 20 levels deep" in refused(written(tmp_path, text))[0]


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "sentiment.yaml")
    assert refused(tmp_path / "sentimnet.yaml") == ["sentimnet.yaml: no such file. Did you mean sentiment.yaml?"]


def test_a_folder_is_no_experiment(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert refused(tmp_path / "folder")[0].startswith("folder: is a folder, not an experiment file")


@pytest.mark.parametrize("name", ["a\0b.yaml", "x" * 300 + ".yaml", "no/such/folder/a.yaml"])
def test_an_impossible_path_is_refused_like_a_missing_one(tmp_path: Path, name: str) -> None:
    assert "Name an experiment file" in refused(Path(f"{tmp_path}/{name}"))[0]
