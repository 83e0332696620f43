"""Prompt and completion.

{"prompt": "name[Aromi], food[Chinese]", "completion": "Aromi serves Chinese food."}

`system` may be absent. Other well-known pairs (`question` and `answer`, …) are taken for it where nothing else in the
row could be meant.
"""

from __future__ import annotations

from tasks.data.formats._base import Content, Format, Record, optional_text_of, text_of
from tasks.data.formats._conversation import conversation
from tasks.data.settings import Columns
from tasks.data.values import Turn

_PAIRS = (
    ("question", "answer"),
    ("input", "output"),
    ("instruction", "response"),
    ("prompt", "response"),
    ("query", "response"),
    ("source", "target"),
    ("input", "target"),
)
_ALSO_MEANT = {"completion", "context", "passage", "label", "chosen", "rejected"}
"""Fields that change what a pair means: with one of them beside it, the pair is not taken without being told."""
_WORDS = {word for pair in _PAIRS for word in pair} | _ALSO_MEANT


class PromptCompletion(Format):
    """Recognised by `prompt` and `completion`, or by exactly one usual pair."""

    name = "prompt_completion"
    columns = ("prompt", "completion", "system")

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """Our own names, or one usual pair and no other field that could be meant."""
        return {"prompt", "completion"} <= fields or bool(cls.usual_columns(fields))

    @classmethod
    def usual_columns(cls, fields: frozenset[str]) -> Columns:
        """{prompt: question, completion: answer} and the like; empty where our own names or none are there."""
        present = fields & _WORDS
        pairs = [pair for pair in _PAIRS if present == set(pair)]
        return {"prompt": pairs[0][0], "completion": pairs[0][1]} if pairs else {}

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """One user turn and its answer."""
        turns = (
            Turn(role="user", content=text_of(record, "prompt")),
            Turn(role="assistant", content=text_of(record, "completion")),
        )
        return conversation(optional_text_of(record, "system"), turns)
