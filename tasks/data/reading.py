"""From sources to rows and bad rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from tasks.data.formats import Recognised, RowError, recognise
from tasks.data.hub import read_hub
from tasks.data.readers import BadRow, Found, RawRecord, reader_for
from tasks.data.rows import check_length, make_row
from tasks.data.sources import EmbeddedSplit, Source
from tasks.data.values import Row
from tasks.embedded import task_rows

_ROWS_TO_RECOGNISE = 100


@dataclass
class SourceRows:
    """Everything that was read from one source."""

    source: Source
    rows: list[Row] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    formats: dict[str, str] = field(default_factory=dict)
    """File -> name of the format."""

    @property
    def read(self) -> int:
        """Rows seen, good and bad."""
        return len(self.rows) + len(self.bad)


def read_source(source: Source, max_row_characters: int) -> SourceRows:
    """Read every row of a source; the bad ones are collected, never raised.

    Raises:
        DataError: a file cannot be read behind some point, or its format is not recognised.
        DependencyError: the hub cannot be reached.
    """
    outcome = SourceRows(source)
    for name, found in _open(source, max_row_characters):
        head = list(islice(found, _ROWS_TO_RECOGNISE))
        fields = frozenset(key for item in head if isinstance(item, RawRecord) for key in item.fields)
        if not fields:
            head += found
            outcome.bad += [item for item in head if isinstance(item, BadRow)]
            continue
        recognised = recognise(fields, name=source.format, columns=source.columns, where=name)
        outcome.formats[name] = recognised.format.name
        _take(chain(head, found), name, recognised, max_row_characters, outcome)
    return outcome


def _open(source: Source, characters: int) -> Iterator[tuple[str, Iterator[Found]]]:
    if source.kind == "hub":
        yield source.label, read_hub(source)
    elif source.kind == "embedded":
        yield source.label, _embedded(source)
    for path in source.files:
        name = path.as_posix()
        yield name, iter(reader_for(path, name)(path, name, characters))


def _embedded(source: Source) -> Iterator[Found]:
    split: EmbeddedSplit = source.split  # type: ignore[assignment]
    for number, fields in enumerate(task_rows(source.task, split), start=1):
        yield RawRecord(number, dict(fields))


def _take(found: Iterable[Found], name: str, recognised: Recognised, characters: int, outcome: SourceRows) -> None:
    for item in found:
        if isinstance(item, BadRow):
            outcome.bad.append(item)
            continue
        try:
            row = make_row(recognised.to_content(item.fields), f"{name}:{item.line}")
            check_length(row, characters)
        except RowError as error:
            outcome.bad.append(BadRow.of(name, item.line, error, item.fields))
        else:
            outcome.rows.append(row)
