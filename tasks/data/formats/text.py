"""Raw text, all of it learned.

{"text": "One day, a little girl named Lily found a needle in her room."}
"""

from __future__ import annotations

from tasks.data.formats._base import Content, Format, Record, text_of

_ANSWERS = {"answer", "completion", "label", "labels", "output", "response", "summary", "target"}
"""Beside one of these, `text` is a question and not the whole row."""


class Text(Format):
    """Recognised by `text`, where nothing beside it looks like an answer."""

    name = "text"
    columns = ("text",)

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """`text` is there, and no answer."""
        return "text" in fields and not fields & _ANSWERS

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """The text as it stands."""
        return text_of(record, "text")
