"""The one shape of every row format, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from tasks.data.settings import Columns
from tasks.data.values import Turn

Record = Mapping[str, Any]
"""One row as the file holds it, its fields under our names."""
Content = tuple[Turn, ...] | str
"""What a row says: the turns of a conversation that ends with the assistant, or raw text."""


class RowError(Exception):
    """A row cannot be used.

    Args:
        reason: a stable word under which such rows are counted (`missing_field`, `bad_role_order`, …).
        detail: what exactly, in a few words and without the row's text.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Format:
    """One public file in this package holds one class below this one; it is found by `name`."""

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    """Fields that it reads, under our names; the ones that `data.columns` may map."""

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """Whether rows with these fields are of this format."""
        raise NotImplementedError

    @classmethod
    def usual_columns(cls, fields: frozenset[str]) -> Columns:
        """Our field -> the file's, where the file uses other well-known names."""
        return {}

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """The canonical content of one row.

        Raises:
            RowError: the row cannot be used.
        """
        raise NotImplementedError


def text_of(record: Record, field: str) -> str:
    """A field that must hold text other than white space."""
    value = optional_text_of(record, field)
    if not value.strip():
        raise RowError("missing_field" if record.get(field) is None else "empty_field", field)
    return value


def optional_text_of(record: Record, field: str) -> str:
    """A field that may be absent, null or empty; the empty text then."""
    value = record.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{field} is {type(value).__name__}, not text")
    if "\x00" in value:
        raise RowError("nul_character", field)
    if not value.isascii():
        _refuse_surrogates(value, field)
    return value


def _refuse_surrogates(value: str, field: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("lone_surrogate", field) from error
