"""Rows over `max_seq_length`: left out, cut, or an error, and always counted."""

from __future__ import annotations

from typing import Literal

from tasks.data.settings import DataSettings
from tasks.data.templates import MASKED, Encoded
from tasks.foundation.errors import DataError

Fate = Literal["whole", "truncated", "dropped", "answer_too_long"]


def fit(row: Encoded, settings: DataSettings, where: str) -> tuple[Encoded | None, Fate]:
    """The row in at most `max_seq_length` tokens, and what became of it. The last answer is never cut.

    Raises:
        DataError: it is too long and the policy is `error`.
    """
    limit, length = settings.max_seq_length, len(row.input_ids)
    if length <= limit:
        return row, "whole"
    if settings.truncation == "error":
        raise DataError(
            f"the row has {length} tokens",
            where=where,
            allowed=f"{limit} (data.max_seq_length)",
            fix="Raise it, or set data.truncation to drop or truncate",
        )
    if settings.truncation == "drop":
        return None, "dropped"
    if row.head + row.answer > limit:
        return None, "answer_too_long"
    return _cut(row, limit), "truncated"


def _cut(row: Encoded, limit: int) -> Encoded:
    """Without the first tokens of the prompt; BOS stays."""
    start = len(row.input_ids) - (limit - row.head)
    input_ids = row.input_ids[: row.head] + row.input_ids[start:]
    labels = row.labels[: row.head] + row.labels[start:]
    labels[0] = MASKED
    return row._replace(input_ids=input_ids, labels=labels)
