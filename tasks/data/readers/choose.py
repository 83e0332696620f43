"""Which reader a file needs, by its ending."""

from __future__ import annotations

from pathlib import Path

from tasks.data.readers._found import Reader
from tasks.data.readers._open import known_suffixes, suffix_of
from tasks.data.readers.delimited import delimited
from tasks.data.readers.json_array import read_json
from tasks.data.readers.json_lines import read_json_lines
from tasks.data.readers.parquet import read_parquet
from tasks.data.readers.plain_text import read_text
from tasks.foundation.errors import DataError

_READERS: dict[str, Reader] = {
    ".csv": delimited(","),
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
    ".tsv": delimited("\t"),
    ".txt": read_text,
}


def reader_for(path: Path, name: str) -> Reader:
    """The reader for a file.

    Raises:
        DataError: no reader knows the ending.
    """
    reader = _READERS.get(suffix_of(path))
    if reader is None:
        raise DataError(
            f"no reader for files that end in {suffix_of(path)!r}",
            where=name,
            allowed=", ".join(known_suffixes()),
            fix="Rename or convert the file",
        )
    return reader
