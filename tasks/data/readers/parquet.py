"""parquet, read in batches; a row's number stands for its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.data.readers._found import Found, RawRecord
from tasks.foundation.errors import DataError

_ROWS_PER_BATCH = 1024


def read_parquet(path: Path, name: str, characters: int) -> Iterator[Found]:
    """One record per row, lists and structs as Python lists and dicts."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
                for fields in batch.to_pylist():
                    number += 1
                    yield RawRecord(number, fields)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        first_line = str(error).partition("\n")[0]
        raise DataError(
            f"not readable as parquet behind row {number}: {first_line}", where=name, fix="Write the file again"
        ) from error
