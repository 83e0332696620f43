"""Which format rows are of: told by name, by a column mapping, or seen in their fields."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from tasks.data.formats._base import Content, Format, Record
from tasks.data.settings import Columns
from tasks.foundation.discovery import discover
from tasks.foundation.errors import ConfigError, DataError


@dataclass(frozen=True)
class Recognised:
    """A format with the columns from which its fields are read."""

    format: type[Format]
    columns: Columns

    def to_content(self, record: Record) -> Content:
        """The row's content; its fields are looked up under the file's names.

        Raises:
            RowError: the row cannot be used.
        """
        mapped = {ours: record.get(theirs) for ours, theirs in self.columns.items()}
        return self.format.to_content({**record, **mapped})


@cache
def all_formats() -> dict[str, type[Format]]:
    """Every format by name."""
    return {found.name: found for found in discover("tasks.data.formats", Format)}


def recognise(fields: frozenset[str], *, name: str | None, columns: Columns, where: str) -> Recognised:
    """The one format that rows with these fields are of.

    Args:
        fields: what the first rows hold.
        name: the format that the user named, if any.
        columns: the user's mapping, our field -> the file's; a field that it names implies the format.
        where: file, for messages.

    Raises:
        ConfigError: an unknown format, or a mapping that fits none.
        DataError: a mapped column is missing, or the rows fit no format or several.
    """
    candidates = _allowed_by(columns, _named(name))
    _check_present(columns, fields, where)
    seen = (fields - set(columns.values())) | set(columns)
    fitting = [found for found in candidates if found.matches(seen)]
    if len(fitting) > 1:
        names = " and ".join(found.name for found in fitting)
        raise DataError(
            f"the columns {_listed(fields)} fit {names}",
            where=where,
            fix=f"Set data.format to one of them, for example data.format={fitting[0].name}",
        )
    if not fitting:
        raise DataError(
            f"the columns {_listed(fields)} fit no format{f' {name!r}' if name else ''}",
            where=where,
            allowed="; ".join(f"{found.name}: {', '.join(found.columns)}" for found in candidates),
            fix="Say which column is which, for example data.columns={prompt: question, completion: answer}",
        )
    return Recognised(fitting[0], {**fitting[0].usual_columns(seen), **columns})


def _named(name: str | None) -> tuple[type[Format], ...]:
    known = all_formats()
    if name is None:
        return tuple(known.values())
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ConfigError(
            f"unknown format {name!r}",
            where="data.format",
            allowed=", ".join(known),
            fix=f"Did you mean {near[0]}?" if near else "",
        )
    return (known[name],)


def _allowed_by(columns: Columns, formats: tuple[type[Format], ...]) -> list[type[Format]]:
    fitting = [found for found in formats if set(columns) <= set(found.columns)]
    if not fitting:
        raise ConfigError(
            f"no format reads the fields {_listed(frozenset(columns))} together",
            where="data.columns",
            allowed="; ".join(f"{found.name}: {', '.join(found.columns)}" for found in formats),
            fix="Map our field to the file's column: {prompt: mr, completion: ref}",
        )
    return fitting


def _check_present(columns: Columns, fields: frozenset[str], where: str) -> None:
    for ours, theirs in sorted(columns.items()):
        if theirs not in fields:
            near = get_close_matches(theirs, sorted(fields), n=1)
            raise DataError(
                f"data.columns.{ours} names the column {theirs!r}, which is not there",
                where=where,
                allowed=", ".join(sorted(fields)),
                fix=f"Did you mean {near[0]!r}?" if near else "",
            )


def _listed(fields: frozenset[str]) -> str:
    shown = sorted(fields)[:20]
    return ", ".join(repr(field) for field in shown) + (", …" if len(fields) > len(shown) else "")
