import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.data.formats import RowError
from tasks.data.readers import BadRow, Found, RawRecord, reader_for
from tasks.data.reading import read_source
from tasks.data.settings import DataSettings
from tasks.data.sources import resolve_sources
from tasks.foundation.errors import DataError, TunelineError

LONGEST = 1000
ROW = b'{"prompt": "a", "completion": "b"}'


def read(path: Path, content: bytes) -> list[Found]:
    path.write_bytes(content)
    return list(reader_for(path, path.name)(path, path.name, LONGEST))


def outcome(found: list[Found]) -> list[tuple[int, str]]:
    """(line, reason) of bad rows, (line, "") of records."""
    return [(item.line, item.reason if isinstance(item, BadRow) else "") for item in found]


JSON_LINES: list[tuple[str, bytes, list[tuple[int, str]]]] = [
    ("a byte order mark is removed", b"\xef\xbb\xbf" + ROW, [(1, "")]),
    ("both line ends are read", ROW + b"\r\n" + ROW + b"\n", [(1, ""), (2, "")]),
    ("blank lines are no rows", b"\n" + ROW + b"\n  \n" + ROW, [(2, ""), (4, "")]),
    ("a broken line is one bad row", ROW + b'\n{"prompt": "a\n' + ROW, [(1, ""), (2, "invalid_json"), (3, "")]),
    ("the last line is broken", ROW + b'\n{"prompt": "a", "compl', [(1, ""), (2, "invalid_json")]),
    ("two values on a line", ROW + ROW, [(1, "invalid_json")]),
    ("bad UTF-8", b'{"prompt": "\xff"}\n' + ROW, [(1, "invalid_utf8"), (2, "")]),
    ("a raw NUL", b'{"prompt": "\0"}', [(1, "invalid_json")]),
    ("not an object", b"[1]\n3\n", [(1, "not_an_object"), (2, "not_an_object")]),
    ("NaN and Infinity", b'{"a": NaN}\n{"a": -Infinity}', [(1, "non_finite_number"), (2, "non_finite_number")]),
    ("a repeated key", b'{"a": 1, "a": 2}', [(1, "duplicate_key")]),
    ("a repeated key inside", b'{"a": {"b": 1, "b": 2}}', [(1, "duplicate_key")]),
    ("deep nesting", b'{"a": ' + b"[" * 99_999 + b"\n" + ROW, [(1, "too_long"), (2, "")]),
    ("a number of 5,000 digits", b'{"a": ' + b"1" * 5000 + b"}", [(1, "invalid_json")]),
    ("a huge line", b'{"a": "' + b"x" * 300_000 + b'"}\n' + ROW, [(1, "too_long"), (2, "")]),
    ("line separators inside a text", '{"a": "x\u2028y\x85z"}'.encode(), [(1, "")]),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in JSON_LINES], ids=[c[0] for c in JSON_LINES])
def test_json_lines_have_a_rule_for_everything(content: bytes, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    assert outcome(read(tmp_path / "a.jsonl", content)) == expected


def test_nesting_that_breaks_the_parser_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n" + ROW)
    assert outcome(list(reader_for(path, "a")(path, "a", 10**6))) == [(1, "too_deep"), (2, "")]


CSV: list[tuple[str, bytes, list[tuple[int, str]]]] = [
    ("a quoted line end", b'p,c\n"a\nb",c\nd,e\n', [(2, ""), (4, "")]),
    ("carriage returns and a mark", b"\xef\xbb\xbfp,c\r\na,b\r\n", [(2, "")]),
    (
        "a field too few and one too many",
        b"p,c\na\na,b,c\nd,e\n",
        [(2, "wrong_column_count"), (3, "wrong_column_count"), (4, "")],
    ),
    ("bad UTF-8", b"p,c\n\xff,b\nd,e\n", [(2, "invalid_utf8"), (3, "")]),
    ("blank lines", b"\np,c\n\na,b\n", [(4, "")]),
    ("text behind a quote", b'p,c\n"a"x,b\nd,e\n', [(2, "invalid_csv"), (3, "")]),
    (
        "a quote closed lines later",
        b'p,c\n"a,b\nd,e\nf,"g"\nh,i\n',
        [(2, "invalid_csv"), (3, "invalid_csv"), (4, "invalid_csv"), (5, "")],
    ),
    ("the largest field", b"p,c\n" + b"x" * 200_000 + b",b\n", [(2, "")]),
]


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in CSV], ids=[case[0] for case in CSV])
def test_csv_has_a_rule_for_everything(content: bytes, expected: list[tuple[int, str]], tmp_path: Path) -> None:
    assert outcome(read(tmp_path / "a.csv", content)) == expected
    assert outcome(read(tmp_path / "a.tsv", content.replace(b",", b"\t"))) == expected


def test_quoted_fields_keep_their_line_ends_and_quotes(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", b'p,c\n"a\r\n""b""",\xe4\xbd\xa0\n') == [RawRecord(2, {"p": 'a\r\n"b"', "c": "你"})]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'p,c\na,b\n"x,y\nz,z\n', "a.csv:3"),
        (b"p,p\na,b\n", "a.csv:1"),
        (b"p,\na,b\n", "a.csv:1"),
        (b"\xff,p\na,b\n", "a.csv:1"),
    ],
    ids=["a quote never closed", "a repeated column", "a nameless column", "a header that is not UTF-8"],
)
def test_a_csv_whose_rows_would_be_lost_fails_with_its_line(content: bytes, place: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path / "a.csv", content)
    assert refused.value.where == place


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"prompt;completion\na;b\n", "holds a semicolon"),
        ("a.csv", b"prompt\tcompletion\na\tb\n", "holds a tab"),
        ("a.tsv", b"prompt,completion\na,b\n", "holds a comma"),
    ],
)
def test_columns_that_are_divided_by_another_sign_are_named_as_such(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words) as refused:
        read(tmp_path / name, content)
    assert refused.value.where == f"{name}:1"
    assert read(tmp_path / name, b"text\na;b\n") == [RawRecord(2, {"text": "a;b"})]


@pytest.mark.parametrize("content", [b'{"data": [{"a": 1}]}', b"{}", ROW])
def test_a_pretty_printed_object_is_no_list_of_rows(content: bytes, tmp_path: Path) -> None:
    assert outcome(read(tmp_path / "a.json", content)) == [(1, "")]
    for text in (json.dumps({"data": [json.loads(content)]}, indent=2), json.dumps(json.loads(ROW), indent=0)):
        with pytest.raises(DataError, match="one object over several lines"):
            read(tmp_path / "a.json", text.replace("\n", "\r\n").encode())


def test_a_json_array_gives_records_with_their_lines(tmp_path: Path) -> None:
    content = b'\xef\xbb\xbf[\n {"a": 1,\n  "b": 2},\n {"a": NaN},\n 3, {"a": 4}\n]\n'
    expected = [(2, ""), (4, "non_finite_number"), (5, "not_an_object"), (5, "")]
    assert outcome(read(tmp_path / "a.json", content)) == expected
    assert read(tmp_path / "a.json", b"[]") == []


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'[{"a": 1},\n {"a": 2', "a.json:2"),
        (b'[{"a": 1}\n {"a": 2}]', "a.json:2"),
        (b'[{"a": 1},\n]', "a.json:1"),
        (b'[{"a": 1}]\n x', "a.json:1"),
        (b'[{"a": 1},\n {"a": "\xff"}]', "a.json:2"),
        (b"[" * 100_000, "a.json:1"),
    ],
)
def test_a_broken_array_fails_with_its_line(content: bytes, place: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path / "a.json", content)
    assert refused.value.where == place


def test_a_json_file_of_lines_is_read_as_lines(tmp_path: Path) -> None:
    assert outcome(read(tmp_path / "a.json", ROW + b"\n" + ROW)) == [(1, ""), (2, "")]


def test_text_is_cut_at_blank_lines_or_else_at_every_line(tmp_path: Path) -> None:
    paragraphs = read(tmp_path / "a.txt", "\n一\n二\r\n\n \n三\n".encode())
    assert paragraphs == [RawRecord(2, {"text": "一\n二"}), RawRecord(6, {"text": "三"})]
    assert read(tmp_path / "a.txt", b"one\ntwo\n\n") == [RawRecord(1, {"text": "one"}), RawRecord(2, {"text": "two"})]


def test_a_paragraph_that_is_not_utf8_names_its_line(tmp_path: Path) -> None:
    bad = read(tmp_path / "a.txt", b"a\n\xff\n\nb\n")[0]
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.reason, bad.detail) == (1, "invalid_utf8", "line 2")


def test_parquet_gives_rows_by_number_and_lists_as_lists(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    messages = [[{"role": "user", "content": "a"}], None]
    pyarrow.parquet.write_table(pyarrow.table({"messages": messages}), tmp_path / "a.parquet")
    path = tmp_path / "a.parquet"
    found = list(reader_for(path, "a.parquet")(path, "a.parquet", LONGEST))
    assert found == [RawRecord(1, {"messages": messages[0]}), RawRecord(2, {"messages": None})]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.csv.gz"])
def test_a_damaged_container_is_a_data_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=name):
        read(tmp_path / name, b"not what it says")


def test_a_packed_file_is_read_like_a_plain_one(tmp_path: Path) -> None:
    assert outcome(read(tmp_path / "a.jsonl.gz", gzip.compress(ROW + b"\n" + ROW))) == [(1, ""), (2, "")]
    with pytest.raises(DataError):
        read(tmp_path / "a.jsonl.gz", gzip.compress(ROW * 1000)[:-9])


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv", "a.tsv"])
def test_utf16_is_named_as_such(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="UTF-16"):
        read(tmp_path / name, ROW.decode().encode("utf-16"))


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.docx.*\.jsonl"):
        read(tmp_path / "a.docx", b"")


def test_an_excerpt_is_short_and_valid_utf8() -> None:
    bad = BadRow.of("a.jsonl", 3, RowError("lone_surrogate", "prompt"), {"prompt": "\ud800" + "x" * 999})
    assert len(json.dumps(bad.excerpt, ensure_ascii=False).encode()) < 220
    assert str(bad) == "a.jsonl:3: lone_surrogate (prompt)"


EXAMPLES = {
    ".jsonl": b'{"prompt": "q\\u00e9 \xe4\xbd\xa0", "completion": "a"}\n{"prompt": "q2", "completion": "a\\n2"}\n' * 2,
    ".json": b'[{"prompt": "q\\u00e9", "completion": "a"},\n {"prompt": "q2", "completion": "a2"}]',
    ".csv": b'prompt,completion\n"q ""1""",a\n"q\n2",\xe4\xbd\xa0\nq3,a3\n',
    ".txt": b"one\n\ntwo \xe4\xbd\xa0\nthree\n",
}
EVIL = (
    b"",
    b"\0",
    b"\xff",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\ud800",
    b"NaN",
    b"\xef\xbb\xbf",
    b"\\",
)
EDIT = st.tuples(st.integers(0, 200), st.integers(0, 3), st.sampled_from(EVIL))


@pytest.mark.parametrize("suffix", sorted(EXAMPLES))
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=st.lists(EDIT, min_size=1, max_size=6))
def test_no_bytes_whatever_cause_anything_but_our_errors(
    suffix: str, edits: list[tuple[int, int, bytes]], tmp_path: Path
) -> None:
    content = EXAMPLES[suffix]
    for at, removed, inserted in edits:
        content = content[:at] + inserted + content[at + removed :]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    try:
        for source in resolve_sources(DataSettings(train=str(path)), "train"):
            found = read_source(source, LONGEST)
            [row.model_dump_json() for row in found.rows]
            [bad.model_dump_json() for bad in found.bad]
    except TunelineError as error:
        assert error.exit_code in (10, 11)
