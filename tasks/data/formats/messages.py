"""OpenAI `messages`: a conversation with `role` and `content`.

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]}
"""

from __future__ import annotations

from tasks.data.formats._base import Content, Format, Record
from tasks.data.formats._conversation import check_order, turns_of


class Messages(Format):
    """Recognised by `messages`."""

    name = "messages"
    columns = ("messages",)

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """`messages` is there."""
        return "messages" in fields

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """The turns as they stand."""
        return check_order(turns_of(record.get("messages"), "messages"))
