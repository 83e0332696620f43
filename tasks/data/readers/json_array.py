"""A JSON array of objects. The text is held whole, the objects one at a time.

Behind a broken element nothing can be found again, so it fails the file: in JSON lines it is one bad row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tasks.data.formats import RowError
from tasks.data.readers._found import BadRow, Found, RawRecord
from tasks.data.readers._open import open_data
from tasks.data.readers._strict_json import StrictDecoder, checked_record
from tasks.data.readers.json_lines import read_json_lines
from tasks.foundation.errors import DataError

_SPACE = re.compile(r"[ \t\r\n]*")
_OPENED_OBJECT = re.compile(rb"\{[ \t]*\r?\n\s*[\"}]")
"""Of a pretty-printed object: no line of it could be a row."""


def read_json(path: Path, name: str, characters: int) -> Iterator[Found]:
    """`.json`: an array where it begins with `[`, JSON lines otherwise.

    Raises:
        DataError: one object fills the file.
    """
    with open_data(path, name) as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return _read_array(path, name)
    if _OPENED_OBJECT.match(start):
        what = "the file is one object over several lines, not rows"
        allowed = "an array of objects, or one object per line"
        raise DataError(what, where=name, allowed=allowed, fix="Keep the array inside it: [{…}, {…}]")
    return read_json_lines(path, name, characters)


def _read_array(path: Path, name: str) -> Iterator[Found]:
    text = _text(path, name)
    decoder = StrictDecoder()
    at = _skip_space(text, text.index("[") + 1)
    line = 1 + text.count("\n", 0, at)
    while at < len(text) and text[at] != "]":
        try:
            value, end = decoder.decode(text, at)
        except RowError as error:
            raise _broken(name, text, at, str(error)) from error
        yield _found(name, line, value, decoder.fault)
        behind = _behind_comma(text, end, name)
        line += text.count("\n", at, behind)
        at = behind
    if _skip_space(text, at + 1) != len(text) or at >= len(text):
        raise _broken(name, text, at, "the array does not end where the file does")


def _found(name: str, line: int, value: object, fault: RowError | None) -> Found:
    try:
        return RawRecord(line, checked_record(value, fault))
    except RowError as error:
        return BadRow.of(name, line, error, value)


def _text(path: Path, name: str) -> str:
    with open_data(path, name) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content.count(b"\n", 0, error.start)
        raise DataError("bytes that are not UTF-8", where=f"{name}:{line}", fix="Convert the file to UTF-8") from error


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _behind_comma(text: str, at: int, name: str) -> int:
    """Index of the next element or of the closing bracket."""
    at = _skip_space(text, at)
    if text[at : at + 1] == "]":
        return at
    behind = _skip_space(text, at + 1)
    if text[at : at + 1] != "," or text[behind : behind + 1] in ("]", ""):
        raise _broken(name, text, at, "no comma and next element")
    return behind


def _broken(name: str, text: str, at: int, why: str) -> DataError:
    line = 1 + text.count("\n", 0, at)
    return DataError(
        f"the array is broken: {why}",
        where=f"{name}:{line}",
        fix="Repair it, or use JSON lines, where one broken line is one bad row",
    )
