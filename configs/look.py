"""What a data file and a model's files say about the experiment that suits them."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal, NamedTuple

from configs.checks import EMBEDDED_MODEL
from configs.first_rows import fields_of, first_rows, raw_rows
from tasks.data.formats import Content
from tasks.data.peek import peek
from tasks.data.readers import RawRecord
from tasks.data.settings import Columns
from tasks.embedded import PretrainBudget
from tasks.foundation.errors import DataError
from tasks.models import BaseModelFacts, resolve_base
from tasks.models.settings import ModelSettings

_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LABELS_AT_MOST = 20
_LONGEST_LABEL = 40
_LARGE_PARAMETERS = 1_000_000_000
_SMALL_VOCABULARY = 5_000
_UNKNOWN_CONTEXT = 2048

Kind = Literal["labels", "chinese", "text", "raw"]
"""What the answers are."""


class Look(NamedTuple):
    """What the first rows and the model's files say."""

    kind: Kind
    format: str
    columns: Columns
    rows: int
    """Estimated number of all rows."""
    row_bytes: int
    answer_bytes: int
    """UTF-8 bytes of the longest row and answer among the first."""
    labels: int
    bad: tuple[str, ...]
    facts: BaseModelFacts | None
    """None for a model that is not here yet."""
    vocabulary: int
    """Its tokens: 0 where only the hub knows."""
    context: int
    """Tokens that it has positions for."""

    @property
    def is_large(self) -> bool:
        """Whether full fine-tuning is out of reach of one ordinary accelerator."""
        return self.facts is not None and self.facts.parameters >= _LARGE_PARAMETERS

    @property
    def max_new_tokens(self) -> int:
        """Room for the longest answer, but never more than half the context."""
        return min(512, self.context // 2, max(8, self._tokens(self.answer_bytes, 8)))

    @property
    def max_seq_length(self) -> int:
        """Room for the longest row, as far as the context goes."""
        return min(self.context, self._tokens(self.row_bytes, 64) + 32)

    @property
    def is_tight(self) -> bool:
        """Whether a long row, or a long prompt with an answer as long as allowed, may exceed the context."""
        prompt = self._tokens(max(0, self.row_bytes - self.answer_bytes), 8)
        return self.max_seq_length >= self.context or prompt + self.max_new_tokens > self.context

    def _tokens(self, size: int, step: int) -> int:
        """A careful guess from UTF-8 bytes, one tenth on top, rounded up: small vocabularies cut finer."""
        small = 0 < self.vocabulary < _SMALL_VOCABULARY
        return step * math.ceil(1.1 * size / (1.2 if small else 2.5) / step)


def look_at(data: Path, model: str) -> Look:
    """Read the first 200 rows of the data, and the model's configuration where it lies here.

    Raises:
        DataError: the data cannot be read.
        ModelError: the model's folder is not one.
    """
    facts = _facts(model)
    sizes = _sizes(model, facts)
    first = peek(data)
    records, _ = raw_rows(data)
    columns = first.mapping if first.format else _guessed_columns(records)
    if any(column.startswith("<fill in") for column in columns.values()):
        longest = max(len(str(record.fields).encode()) for record in records)
        return Look("text", "unknown", columns, first.estimated_rows, longest, longest, 0, first.bad, facts, *sizes)
    rows = first_rows(data, None, columns)
    if not rows.rows:
        raise DataError("none of the first rows can be used", where=str(data), fix=f"First: {rows.bad[0]}")
    answers = [_answer(row) for row in rows.rows]
    longest = max(len(_text(row).encode("utf-8")) for row in rows.rows)
    longest_answer = max(len(answer.encode("utf-8")) for answer in answers)
    kind = _kind(rows.rows, answers)
    labels = len(set(answers)) if kind == "labels" else 0
    bad = tuple(rows.bad)
    return Look(kind, rows.format, columns, first.estimated_rows, longest, longest_answer, labels, bad, facts, *sizes)


def _facts(model: str) -> BaseModelFacts | None:
    is_hub_id = _HUB_ID.fullmatch(model) and not Path(model).exists()
    if model == EMBEDDED_MODEL or (is_hub_id and not Path(model).parent.is_dir()):
        return None
    return resolve_base(ModelSettings(name_or_path=model)).facts


def _sizes(model: str, facts: BaseModelFacts | None) -> tuple[int, int]:
    """Vocabulary and context. The embedded model is not made yet, but how large it will be is known."""
    if facts:
        return facts.vocab_size, facts.max_position_embeddings
    budget = PretrainBudget()
    return (budget.vocab_size, budget.context) if model == EMBEDDED_MODEL else (0, _UNKNOWN_CONTEXT)


def _guessed_columns(records: list[RawRecord]) -> Columns:
    """Two columns of text are a prompt and its answer; of more, only the user knows."""
    fields = fields_of(records)
    order = [name for name in records[0].fields if name in fields]
    texts = [name for name in order if all(isinstance(record.fields.get(name), str) for record in records)]
    if len(texts) == 2:
        return {"prompt": texts[0], "completion": texts[1]}
    choices = " or ".join(order[:12])
    return {
        "prompt": f"<fill in the column with the input: {choices}>",
        "completion": f"<fill in the column with the answer: {choices}>",
    }


def _answer(row: Content) -> str:
    return row if isinstance(row, str) else row[-1].content


def _text(row: Content) -> str:
    return row if isinstance(row, str) else "\n".join(turn.content for turn in row)


def _kind(rows: tuple[Content, ...], answers: list[str]) -> Kind:
    if all(isinstance(row, str) for row in rows):
        return "raw"
    labels = set(answers)
    few = 2 <= len(labels) <= min(_LABELS_AT_MOST, len(answers) // 3)
    if few and max(map(len, labels)) <= _LONGEST_LABEL:
        return "labels"
    letters = sum(character.isalpha() for answer in answers for character in answer)
    chinese = sum(len(_CHINESE.findall(answer)) for answer in answers)
    return "chinese" if 2 * chinese > letters else "text"
