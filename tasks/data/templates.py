"""Rows to ids and labels: the one place where text becomes what the model reads, in training and in generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tasks.data.dialects import SEPARATOR, ChatDialect, Dialect, Examples, PlainDialect
from tasks.data.segments import Segment, SegmentEncoder
from tasks.data.settings import DataSettings
from tasks.data.values import EvalRow, Row, Turn
from tasks.foundation.errors import ModelError

MASKED = -100
"""The label that no loss counts."""


class Encoded(NamedTuple):
    """A row as ids and labels, with what a cut must spare."""

    input_ids: list[int]
    labels: list[int]
    head: int
    """Leading ids that every sequence keeps (BOS)."""
    answer: int
    """Ids of the last answer with its end token, at the end."""


class Renderer:
    """Renders with the tokenizer's chat template, or with the plain template of the settings.

    Args:
        tokenizer: a transformers tokenizer.
        settings: `template`, `use_chat_template` and `train_on_prompt` are read.
        separator: stands between examples under the plain template; an empty line when absent.

    Raises:
        ModelError: the tokenizer has no end token, or a chat template that cannot be trained on.
    """

    def __init__(self, tokenizer: Any, settings: DataSettings, separator: str | None = None) -> None:
        chat = chats(tokenizer, settings)
        between = SEPARATOR if separator is None else separator
        self._dialect: Dialect = ChatDialect(tokenizer) if chat else PlainDialect(settings.template, between)
        self._encoder = SegmentEncoder(tokenizer)
        self._bos = tokenizer.bos_token_id
        # A chat template writes its own BOS; all other text gets what the tokenizer adds.
        self._opening = self._encoder.opening_ids()
        self._prompt_opening = [] if chat else self._opening
        self._end = _end_token_id(tokenizer, self._dialect.end_token)
        self._eos = tokenizer.eos_token_id
        self._train_on_prompt = settings.train_on_prompt

    @property
    def template(self) -> str:
        """`chat:<sha256 prefix>` or the plain template, for the report."""
        return self._dialect.name

    @property
    def end_token_ids(self) -> list[int]:
        """The ids at which generation stops: the trained end token first, then the tokenizer's own."""
        return list(dict.fromkeys(token for token in (self._end, self._eos) if token is not None))

    def prompt_ids(self, turns: Sequence[Turn], examples: Examples = ()) -> list[int]:
        """What generation is given: exactly the ids that a row with this prompt begins with, behind the same examples.

        Of a training row, where there are no examples.
        """
        if not turns:
            return list(self._opening)
        segments = self._dialect.behind(examples, turns, "") if examples else self._dialect.prompt(turns, "")
        return self._assemble(segments, self._encoder.encode([segments])[0], self._prompt_opening).input_ids

    def row_ids(self, row: Row, examples: Examples = ()) -> tuple[list[int], list[int]]:
        """Ids and labels of a row, untruncated; it ends with the trained end token."""
        encoded = self.encode([row], examples)[0]
        return encoded.input_ids, encoded.labels

    def encode(self, rows: Sequence[Row], examples: Examples = ()) -> list[Encoded]:
        """Rows as ids and labels, tokenised together. Evaluation rows learn answers alone, whatever the settings.

        Examples stand in front of every row that is a conversation, and nothing of them is learned.

        Raises:
            DataError: naming the row that the chat template does not render faithfully.
        """
        segments = [self._segments(row, examples) for row in rows]
        found = self._encoder.encode(segments)
        return [self._encoded(*group) for group in zip(rows, segments, found, strict=True)]

    def _segments(self, row: Row, examples: Examples) -> list[Segment]:
        if row.turns and examples:
            return self._dialect.behind(examples, row.turns, row.source)
        if row.turns:
            return self._dialect.conversation(row.turns, row.source)
        return [Segment(row.answer, learned=True, ended=True)]

    def _encoded(self, row: Row, segments: list[Segment], parts: list[list[int]]) -> Encoded:
        opening = self._prompt_opening if row.turns else self._opening
        learn_all = self._train_on_prompt and not isinstance(row, EvalRow)
        encoded = self._assemble([s._replace(learned=s.learned or learn_all) for s in segments], parts, opening)
        # Nothing predicts the first id; in a packed sequence the row before it would.
        encoded.labels[0] = MASKED
        return encoded

    def _assemble(self, segments: list[Segment], parts: list[list[int]], opening: list[int]) -> Encoded:
        input_ids, labels = list(opening), [MASKED] * len(opening)
        answer = 0
        for segment, part in zip(segments, parts, strict=True):
            ids = [*part, self._end] if segment.ended else part
            input_ids += ids
            labels += ids if segment.learned else [MASKED] * len(ids)
            answer = len(ids)
        head = len(opening) or int(input_ids[:1] == [self._bos])
        return Encoded(input_ids, labels, head, answer)


def chats(tokenizer: Any, settings: DataSettings) -> bool:
    """Whether the tokenizer's chat template renders the rows, and no plain one."""
    return settings.use_chat_template and bool(tokenizer.chat_template)


def _end_token_id(tokenizer: Any, token: str | None) -> int:
    """The id that ends every answer: the chat template's own, else the tokenizer's EOS."""
    found = tokenizer.eos_token_id if token is None else tokenizer.convert_tokens_to_ids(token)
    if found is None:
        raise ModelError(
            "the tokenizer has no end token (eos_token), so a model could not learn where answers end",
            fix="Set eos_token in the tokenizer_config.json beside the model",
        )
    return int(found)
