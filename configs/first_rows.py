"""The first rows of a data file as the data step will read them: to check it, or to write an experiment for it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tasks.data.formats import Content, RowError, recognise
from tasks.data.readers import BadRow, RawRecord, reader_for
from tasks.data.settings import Columns
from tasks.foundation.errors import DataError
from tasks.foundation.values import Value

ROWS = 200
_MAX_CHARACTERS = 1_000_000


class FirstRows(Value):
    """What the first rows of a file say."""

    format: str
    columns: Columns
    """Our field -> the file's column, where they differ."""
    rows: tuple[Content, ...]
    """The good ones."""
    bad: tuple[str, ...]
    """`file:line: reason` of the others."""


def first_rows(path: Path, format_name: str | None, columns: Columns) -> FirstRows:
    """Read at most 200 rows.

    Raises:
        DataError: the file cannot be read, holds no row, or its columns fit no format.
        ConfigError: unknown format, or a mapping that fits none.
    """
    name = path.as_posix()
    records, bad = raw_rows(path)
    if not records:
        raise DataError("no row can be read", where=name, fix=f"First: {bad[0]}" if bad else "The file is empty")
    recognised = recognise(fields_of(records), name=format_name, columns=columns, where=name)
    rows: list[Content] = []
    for record in records:
        try:
            rows.append(recognised.to_content(record.fields))
        except RowError as error:
            bad.append(str(BadRow.of(name, record.line, error, record.fields)))
    return FirstRows(format=recognised.format.name, columns=recognised.columns, rows=tuple(rows), bad=tuple(bad))


def raw_rows(path: Path) -> tuple[list[RawRecord], list[str]]:
    """Records of the file with its own columns, and the rows that are none.

    Raises:
        DataError: the file cannot be read.
    """
    name = path.as_posix()
    if not path.is_file():
        raise DataError(f"{name} does not exist", fix="Name a file")
    found = list(islice(reader_for(path, name)(path, name, _MAX_CHARACTERS), ROWS))
    records = [item for item in found if isinstance(item, RawRecord)]
    return records, [str(item) for item in found if isinstance(item, BadRow)]


def fields_of(records: list[RawRecord]) -> frozenset[str]:
    """The columns that any of the records has."""
    return frozenset(key for record in records for key in record.fields)
