"""Alpaca: an instruction, perhaps with an input, and the output.

{"instruction": "Translate to French.", "input": "Good morning", "output": "Bonjour"}

`input`, `system` and `history` (earlier pairs of question and answer) may be absent. Instruction and input become one
user turn, an empty line between them.
"""

from __future__ import annotations

from tasks.data.formats._base import Content, Format, Record, RowError, optional_text_of, text_of
from tasks.data.formats._conversation import conversation
from tasks.data.values import Turn


class Alpaca(Format):
    """Recognised by `instruction` and `output`."""

    name = "alpaca"
    columns = ("instruction", "input", "output", "system", "history")

    @classmethod
    def matches(cls, fields: frozenset[str]) -> bool:
        """`instruction` and `output` are there."""
        return {"instruction", "output"} <= fields

    @classmethod
    def to_content(cls, record: Record) -> Content:
        """History, then instruction and input as one turn, then the output."""
        instruction = text_of(record, "instruction")
        extra = optional_text_of(record, "input")
        question = f"{instruction}\n\n{extra}" if extra.strip() else instruction
        last = (
            Turn(role="user", content=question),
            Turn(role="assistant", content=text_of(record, "output")),
        )
        return conversation(optional_text_of(record, "system"), (*_history(record), *last))


def _history(record: Record) -> tuple[Turn, ...]:
    pairs = record.get("history") or []
    if not isinstance(pairs, list):
        raise RowError("wrong_type", f"history is {type(pairs).__name__}, not a list")
    turns: list[Turn] = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RowError("wrong_type", f"history[{index}] is not a pair of question and answer")
        place = {f"history[{index}][{side}]": text for side, text in enumerate(pair)}
        question, answer = (text_of(place, name) for name in place)
        turns += [Turn(role="user", content=question), Turn(role="assistant", content=answer)]
    return tuple(turns)
