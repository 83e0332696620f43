"""Plain text: rows are separated by blank lines; in a file without blank lines every line is a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.data.formats import RowError
from tasks.data.readers._found import BadRow, Found, RawRecord
from tasks.data.readers._open import Line, lines_of, open_data


def read_text(path: Path, name: str, characters: int) -> Iterator[Found]:
    """One record `{"text": …}` per paragraph, or per line."""
    with open_data(path, name) as file:
        paragraphs = _has_blank_line(lines_of(file, name, characters))
    with open_data(path, name) as file:
        lines = lines_of(file, name, characters)
        for block in _paragraphs(lines) if paragraphs else ([line] for line in lines if line.content.strip()):
            yield _found(name, block)


def _has_blank_line(lines: Iterable[Line]) -> bool:
    """Whether a blank line stands between two lines with text."""
    seen = blank = False
    for line in lines:
        has_text = bool(line.content.strip())
        if has_text and blank:
            return True
        blank = seen and not has_text
        seen = seen or has_text
    return False


def _paragraphs(lines: Iterable[Line]) -> Iterator[list[Line]]:
    block: list[Line] = []
    for line in lines:
        if line.content.strip():
            block.append(line)
        elif block:
            yield block
            block = []
    if block:
        yield block


def _found(name: str, block: list[Line]) -> Found:
    content = b"\n".join(line.content for line in block)
    first = block[0].number
    if any(line.too_long for line in block):
        return BadRow.of(name, first, RowError("too_long", "the line"), content[:1000])
    try:
        return RawRecord(first, {"text": content.decode("utf-8")})
    except UnicodeDecodeError as error:
        line = first + content.count(b"\n", 0, error.start)
        return BadRow.of(name, first, RowError("invalid_utf8", f"line {line}"), content[:1000])
