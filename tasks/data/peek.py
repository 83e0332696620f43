"""A first look at a data file: enough to write an experiment for it, without reading it whole."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from tasks.data.formats import recognise
from tasks.data.readers import BadRow, RawRecord, reader_for
from tasks.data.settings import Columns
from tasks.foundation.errors import DataError
from tasks.foundation.values import Value

_ROWS = 100
_SHOWN_ROWS = 3
_DEFAULT_CHARACTERS = 1_000_000
_LONGEST_VALUE = 200


class Peek(Value):
    """What the first rows show."""

    format: str | None
    """None where the columns fit no format or several: then `problem` says what to do."""
    problem: str = ""
    columns: tuple[str, ...]
    mapping: Columns
    """Our field -> the file's column, where they differ."""
    rows: tuple[dict[str, str], ...]
    """The first good rows, values cut to 200 characters."""
    bad: tuple[str, ...] = ()
    """`file:line: reason` of bad rows among the first ones."""
    estimated_rows: int
    """Exact for parquet and for files of at most 100 rows, else by the size of the first rows."""


def peek(path: Path) -> Peek:
    """Look at the first rows of a file.

    Raises:
        DataError: the file does not exist, cannot be read or has no rows.
    """
    name = path.as_posix()
    if not path.is_file():
        raise DataError(f"{name} does not exist", fix="Name a file")
    found = list(islice(reader_for(path, name)(path, name, _DEFAULT_CHARACTERS), _ROWS))
    records = [item for item in found if isinstance(item, RawRecord)]
    bad = tuple(str(item) for item in found if isinstance(item, BadRow))
    if not records:
        raise DataError("no row can be read", where=name, fix=f"First: {bad[0]}" if bad else "The file is empty")
    columns = tuple(dict.fromkeys(key for record in records for key in record.fields))
    known, mapping, problem = _recognised(columns, name)
    return Peek(
        format=known,
        problem=problem,
        columns=columns,
        mapping=mapping,
        rows=tuple(_shown(record) for record in records[:_SHOWN_ROWS]),
        bad=bad,
        estimated_rows=_estimate(path, found),
    )


def _recognised(columns: tuple[str, ...], name: str) -> tuple[str | None, Columns, str]:
    try:
        found = recognise(frozenset(columns), name=None, columns={}, where=name)
    except DataError as error:
        return None, {}, str(error)
    return found.format.name, found.columns, ""


def _shown(record: RawRecord) -> dict[str, str]:
    return {key: str(value)[:_LONGEST_VALUE] for key, value in record.fields.items()}


def _estimate(path: Path, found: list[RawRecord | BadRow]) -> int:
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return int(pyarrow.parquet.read_metadata(path).num_rows)
    if len(found) < _ROWS:
        return len(found)
    lines = max(found[-1].line, 1)
    with path.open("rb") as file:
        head = sum(len(line) for line, _ in zip(file, range(lines), strict=False))
    return max(len(found), round(path.stat().st_size * len(found) / max(head, 1)))
