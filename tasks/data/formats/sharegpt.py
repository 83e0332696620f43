"""ShareGPT: a conversation with `from` and `value`.

{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "system": "Be brief."}

`system` may be absent, or be the first turn. `role` and `content` inside `conversations` are read too.
"""

from __future__ import annotations

from tasks.data.formats._base import Content, Format, Record, optional_text_of
from tasks.data.formats._conversation import conversation, turns_of


class ShareGPT(Format):
    """Recognised by `conversations`."""

    name = "sharegpt"
    columns = ("conversations", "system")

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """`conversations` is there."""
        return "conversations" in fields

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """The turns under our role names."""
        turns = turns_of(record.get("conversations"), "conversations")
        return conversation(optional_text_of(record, "system"), turns)
