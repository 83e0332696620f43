"""Token sequences and the Arrow files in which they lie."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow

from tasks.foundation.digests import digest_value
from tasks.foundation.faults import reach

_ROWS_PER_BATCH = 1000


class Sequence(NamedTuple):
    """One line of train.arrow or eval.arrow."""

    id: str
    """The row's id, with a number behind it from its second rendering on; of a packed sequence the digest of its rows'
    ids."""
    input_ids: list[int]
    labels: list[int]
    position_ids: list[int] | None = None
    """Of packed sequences: from 0 again at the start of each row."""


def packed(rows: list[Sequence]) -> Sequence:
    """Several sequences as one."""
    return Sequence(
        id=digest_value([row.id for row in rows]),
        input_ids=[token for row in rows for token in row.input_ids],
        labels=[label for row in rows for label in row.labels],
        position_ids=[position for row in rows for position in range(len(row.input_ids))],
    )


def write_sequences(path: Path, sequences: Iterable[Sequence], *, positions: bool) -> None:
    """An Arrow IPC stream that `datasets.Dataset.from_file` maps into memory; equal sequences give equal bytes."""
    ids = pyarrow.list_(pyarrow.int32())
    columns = [("id", pyarrow.string()), ("input_ids", ids), ("labels", ids)]
    if positions:
        columns.append(("position_ids", ids))
    schema = pyarrow.schema([*columns, ("length", pyarrow.int32())])
    rest = iter(sequences)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
        while batch := list(islice(rest, _ROWS_PER_BATCH)):
            reach("tokenize.write")
            values = [[getattr(sequence, name) for sequence in batch] for name, _ in columns]
            values.append([len(sequence.input_ids) for sequence in batch])
            arrays = [pyarrow.array(column, type=field.type) for column, field in zip(values, schema, strict=True)]
            stream.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=schema))
