"""Segments: pieces of a row's text that are learned or masked as a whole, and their tokens.

Each segment is tokenised on its own and the ids are put together. That makes the mask exact for every tokenizer, since
no token can reach over a boundary, and it makes a training row begin with the very ids that generation is given, since
both come from the same segments. Tokenising the whole text and cutting it by offsets would give neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_PROBE = "\n"
"""Stands before a text that continues another one, where the tokenizer would add a space of its own to it."""


class Segment(NamedTuple):
    """A piece of text with one fate."""

    text: str
    learned: bool
    ended: bool = False
    """Whether the end token follows."""


class SegmentEncoder:
    """Turns segments into ids with a tokenizer's own conventions.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._probe = self._ids([_PROBE])[0]
        together, alone = self._ids([f"{_PROBE}a", "a"])
        self._adds_space = together != self._probe + alone

    def opening_ids(self) -> list[int]:
        """The ids that the tokenizer puts before every text: its BOS, if it adds one."""
        bare = self._ids(["a"])[0]
        full = list(self._tokenizer("a")["input_ids"])
        starts = (start for start in range(len(full)) if full[start : start + len(bare)] == bare)
        return full[: next(starts, 0)]

    def encode(self, rows: Sequence[Sequence[Segment]]) -> list[list[list[int]]]:
        """Ids of every segment of every row, tokenised in two batches: first segments and those that follow."""
        first = iter(self._ids([row[0].text for row in rows if row]))
        following = iter(self._continued([segment.text for row in rows for segment in row[1:]]))
        return [[next(following if place else first) for place in range(len(row))] for row in rows]

    def _continued(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts that stand behind others: without the space that SentencePiece puts before a text."""
        if not self._adds_space:
            return self._ids(texts)
        width = len(self._probe)
        found = self._ids([_PROBE + text for text in texts])
        return [
            ids[width:] if ids[:width] == self._probe else self._ids([text])[0]
            for text, ids in zip(texts, found, strict=True)
        ]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in found["input_ids"]]
