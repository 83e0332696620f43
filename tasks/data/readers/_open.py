"""Opening files and cutting them into lines without trusting their size."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from tasks.foundation.errors import DataError

_PACKED = ".gz"
_SUFFIXES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet", ".tsv", ".txt")
_BYTES_PER_CHARACTER = 6
"""JSON may write a character as six bytes (`\\uXXXX`)."""
_SPARE_BYTES = 1 << 16
"""Room for field names and punctuation of a row of the greatest length."""


def known_suffixes() -> tuple[str, ...]:
    """Endings of files that can be read; all but `.parquet` also with `.gz` behind."""
    return _SUFFIXES


def suffix_of(path: Path) -> str:
    """`.jsonl` for both `a.jsonl` and `a.jsonl.gz`, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [_PACKED]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def open_data(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where it is packed; anything that goes wrong below becomes a DataError."""
    try:
        with cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == _PACKED else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot be read: {type(error).__name__}: {error}", where=name, fix="Replace the file"
        ) from error


class Line(NamedTuple):
    """One line without its end."""

    number: int
    content: bytes
    too_long: bool


def lines_of(file: BinaryIO, name: str, characters: int) -> Iterator[Line]:
    r"""Lines ended by `\n` or `\r\n` alone; a byte order mark is removed, and no line is held beyond its limit.

    Raises:
        DataError: the file is UTF-16.
    """
    limit = characters * _BYTES_PER_CHARACTER + _SPARE_BYTES
    number = 0
    while chunk := file.readline(limit):
        number += 1
        if number == 1:
            chunk = _without_mark(chunk, name)
        too_long = len(chunk) >= limit and not chunk.endswith(b"\n")
        if too_long:
            _skip_line(file, limit)
        yield Line(number, chunk.removesuffix(b"\n").removesuffix(b"\r"), too_long)


def _skip_line(file: BinaryIO, limit: int) -> None:
    while chunk := file.readline(limit):
        if chunk.endswith(b"\n"):
            return


def refuse_utf16(start: bytes, name: str) -> None:
    """Look for UTF-16's mark, as spreadsheets write it, in the first bytes of a file.

    Raises:
        DataError: it is there.
    """
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("the file is UTF-16", where=name, allowed="UTF-8", fix="Convert it to UTF-8")


def _without_mark(chunk: bytes, name: str) -> bytes:
    refuse_utf16(chunk, name)
    return chunk.removeprefix(codecs.BOM_UTF8)
