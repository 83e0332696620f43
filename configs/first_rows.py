"""The first rows of a data file as the data step will read them: to check it, or to write an experiment for it."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tasks.data.formats import Content, RowError, recognise
from tasks.data.peek import check_is_file
from tasks.data.readers import BadRow, RawRecord, reader_for
from tasks.data.rows import check_length, make_row
from tasks.data.settings import Columns, DataSettings
from tasks.foundation.errors import DataError
from tasks.foundation.values import Value

ROWS = 200
MAX_CHARACTERS: int = DataSettings.model_fields["max_row_characters"].default


class FirstRows(Value):
    """What the first rows of a file say."""

    format: str
    columns: Columns
    """Our field -> the file's column, where they differ."""
    rows: tuple[Content, ...]
    """The good ones."""
    bad: tuple[str, ...]
    """`file:line: reason` of the others."""


def first_rows(path: Path, format_name: str | None, columns: Columns, characters: int = MAX_CHARACTERS) -> FirstRows:
    """Read at most 200 rows; those of more characters than that are bad.

    Raises:
        DataError: the file cannot be read, holds no row, or its columns fit no format.
        ConfigError: unknown format, or a mapping that fits none.
    """
    name = path.as_posix()
    records, bad = raw_rows(path, characters)
    if not records:
        raise DataError(
            "no row can be read", where=name, fix=f"First: {bad[0]}" if bad else "It is empty, or a header alone"
        )
    recognised = recognise(fields_of(records), name=format_name, columns=columns, where=name)
    rows: list[Content] = []
    for record in records:
        try:
            content = recognised.to_content(record.fields)
            check_length(make_row(content, name), characters)
            rows.append(content)
        except RowError as error:
            bad.append(BadRow.of(name, record.line, error, record.fields))
    told = tuple(str(row) for row in sorted(bad, key=lambda row: row.line))
    return FirstRows(format=recognised.format.name, columns=recognised.columns, rows=tuple(rows), bad=told)


def raw_rows(path: Path, characters: int = MAX_CHARACTERS) -> tuple[list[RawRecord], list[BadRow]]:
    """Records of the file with its own columns, and the rows that are none.

    Raises:
        DataError: the file cannot be read.
    """
    name = path.as_posix()
    check_is_file(path)
    found = list(islice(reader_for(path, name)(path, name, characters), ROWS))
    records = [item for item in found if isinstance(item, RawRecord)]
    return records, [item for item in found if isinstance(item, BadRow)]


def fields_of(records: list[RawRecord]) -> frozenset[str]:
    """The columns that any of the records has."""
    return frozenset(key for record in records for key in record.fields)
