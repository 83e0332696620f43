"""csv and tsv with a header: RFC 4180 quotes, so a quoted field may hold line ends.

A quote that is closed too late spoils every line up to there, and each of them counts as a bad row. One that is never
closed fails the file, because the rows behind it are lost.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tasks.data.formats import RowError
from tasks.data.readers._found import BadRow, Found, RawRecord, Reader
from tasks.data.readers._open import open_data, refuse_utf16
from tasks.foundation.errors import DataError

_LARGEST_FIELD = 2**31 - 1
"""The module's own limit is 128 kB and global; `max_row_characters` decides instead."""
_DELIMITERS = {"\t": "a tab", ";": "a semicolon", ",": "a comma", "|": "a bar"}
"""What separates columns in files of other ways."""


class _Lines:
    """The file's lines; remembers those of the record that is being read."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self.record: list[str] = []
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            self.ended = True
            raise StopIteration
        self.record.append(line)
        return line


def delimited(delimiter: str) -> Reader:
    """The reader for files with this delimiter."""
    return partial(_read, delimiter)


def _read(delimiter: str, path: Path, name: str, characters: int) -> Iterator[Found]:
    csv.field_size_limit(_LARGEST_FIELD)
    with open_data(path, name) as file:
        refuse_utf16(file.read(2), name)
        file.seek(0)
        # Bytes that are no UTF-8 become surrogates, which nothing else can, and are found again in their field.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        yield from _read_text(text, delimiter, name)


def _read_text(text: io.TextIOWrapper, delimiter: str, name: str) -> Iterator[Found]:
    lines = _Lines(text)
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        lines.record.clear()
        first = records.line_num + 1
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as error:
            yield from _spoiled(lines, name, first, error)
            continue
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, name, first)
        else:
            yield _found(header, cells, name, first)


def _spoiled(lines: _Lines, name: str, first: int, error: csv.Error) -> Iterator[BadRow]:
    if lines.ended:
        raise DataError(
            "a quote is opened and never closed, the rows behind it are lost",
            where=f"{name}:{first}",
            fix='Close it, or write a quote inside a field twice ("")',
        ) from error
    for offset, line in enumerate(lines.record):
        yield BadRow.of(name, first + offset, RowError("invalid_csv", str(error)), line)


def _checked_header(cells: list[str], name: str, line: int) -> list[str]:
    _check_delimiter(cells, name, line)
    problem = ""
    if not all(cell.strip() for cell in cells):
        problem = "a column has no name"
    elif len(set(cells)) != len(cells):
        problem = "two columns share a name"
    if problem:
        raise DataError(problem, where=f"{name}:{line}", fix="Give the file a header line of distinct names")
    return cells


def _check_delimiter(cells: list[str], name: str, line: int) -> None:
    """A header that is one column because the file is not what its ending says."""
    if not all(map(_is_utf8, cells)):
        raise DataError("the header is not UTF-8", where=f"{name}:{line}", fix="Convert the file to UTF-8")
    other = next((sign for sign in _DELIMITERS if sign in cells[0]), None)
    if len(cells) == 1 and other:
        what = f"one column; its name {cells[0][:60]!r} holds {_DELIMITERS[other]}"
        allowed = "commas between columns in .csv, tabs in .tsv"
        raise DataError(
            what, where=f"{name}:{line}", allowed=allowed, fix="Separate the columns that way, or rename the file"
        )


def _found(header: list[str], cells: list[str], name: str, line: int) -> Found:
    try:
        if len(cells) != len(header):
            raise RowError("wrong_column_count", f"{len(cells)} fields under {len(header)} columns")
        for column, cell in zip(header, cells, strict=True):
            if not _is_utf8(cell):
                raise RowError("invalid_utf8", column)
    except RowError as error:
        return BadRow.of(name, line, error, ",".join(cells))
    return RawRecord(line, dict(zip(header, cells, strict=True)))


def _is_utf8(cell: str) -> bool:
    if cell.isascii():
        return True
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
