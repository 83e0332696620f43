"""A first look at a data file: enough to write an experiment for it, without reading it whole."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from tasks.data.formats import recognise
from tasks.data.readers import BadRow, RawRecord, open_data, reader_for
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
    check_is_file(path)
    found = list(islice(reader_for(path, name)(path, name, _DEFAULT_CHARACTERS), _ROWS))
    records = [item for item in found if isinstance(item, RawRecord)]
    bad = tuple(str(item) for item in found if isinstance(item, BadRow))
    if not records:
        raise DataError(
            "no row can be read", where=name, fix=f"First: {bad[0]}" if bad else "It is empty, or a header alone"
        )
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


def check_is_file(path: Path) -> None:
    """Refuse what cannot be looked into.

    Raises:
        DataError: there is no such file, or it is a folder.
    """
    if path.is_dir():
        raise DataError("this is a folder", where=path.as_posix(), allowed="a file", fix="Name one of its files")
    if not path.is_file():
        raise DataError(f"{path.as_posix()} does not exist", fix="Name a file")


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
    with open_data(path, path.as_posix()) as file:
        head = sum(len(line) for line, _ in zip(file, range(lines), strict=False))
    return max(len(found), round(_unpacked_bytes(path) * len(found) / max(head, 1)))


def _unpacked_bytes(path: Path) -> int:
    """Of a packed file what gzip says in its last four bytes (RFC 1952, modulo 2^32): enough for an estimate."""
    size = path.stat().st_size
    if path.suffix.lower() != ".gz":
        return size
    with path.open("rb") as file:
        file.seek(-4, os.SEEK_END)
        return max(size, int.from_bytes(file.read(4), "little"))
