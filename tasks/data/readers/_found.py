"""What a reader yields: records, and the rows that are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from tasks.foundation.values import Value

_EXCERPT_CHARACTERS = 200


class BadRow(Value):
    """A line of quarantine.jsonl."""

    file: str
    line: int
    """1-based line where the row begins; for parquet and hub data sets the number of the row."""
    reason: str
    detail: str = ""
    excerpt: str = ""
    """The first characters of the row."""

    @classmethod
    def of(cls, file: str, line: int, error: Exception, raw: object) -> BadRow:
        """Record a `RowError` with an excerpt that any JSON reader can read."""
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        excerpt = text[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
        reason = getattr(error, "reason", "unreadable")
        return cls(file=file, line=line, reason=reason, detail=getattr(error, "detail", ""), excerpt=excerpt)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class RawRecord(NamedTuple):
    """A record with its own field names."""

    line: int
    fields: dict[str, Any]


Found: TypeAlias = RawRecord | BadRow
Reader: TypeAlias = Callable[[Path, str, int], Iterator[Found]]
"""(file, its name in messages, characters of a row at most) -> records and bad rows in the file's order.

Raises DataError where nothing behind the fault could be read.
"""
