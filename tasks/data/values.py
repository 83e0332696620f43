"""Rows in their one canonical form, and what the two data steps hand on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.artifacts.values import Artifact
from tasks.foundation.values import Value


class Turn(Value):
    """One message."""

    role: Literal["system", "user", "assistant"]
    content: str


class Row(Value):
    """A training row: a conversation that ends with the assistant, or raw text.

    {"id": "3f…", "turns": [{"role": "user", "content": "name[Aromi]"}, {"role": "assistant", "content": "Aromi is …"}]}
    """

    id: str
    """sha256 of the content (roles and texts); equal rows have equal ids wherever they come from."""
    turns: tuple[Turn, ...] = ()
    text: str | None = None
    source: str = ""
    """`file:line` of the first place where it stood."""

    @property
    def prompt(self) -> tuple[Turn, ...]:
        """All turns but the last answer."""
        return self.turns[:-1]

    @property
    def answer(self) -> str:
        """The last assistant turn, or the raw text."""
        return self.turns[-1].content if self.turns else (self.text or "")


class EvalRow(Row):
    """An evaluation row with every reference that the evaluation source holds for the same prompt."""

    references: tuple[str, ...] = ()


class DataReport(Value):
    """Counts of the data step; logged whole, and as flat `data/…` metrics."""

    read_rows: int
    train_rows: int
    eval_rows: int
    bad_rows: int
    bad_by_reason: dict[str, int] = Field(default_factory=dict)
    first_bad: tuple[str, ...] = ()
    """At most five `file:line: reason`."""
    duplicate_rows: int
    leaked_rows: int
    unused_rows: int
    """Good rows left out by `max_*_rows` or by mixing weights."""
    rows_by_source: dict[str, int] = Field(default_factory=dict)
    formats: dict[str, str] = Field(default_factory=dict)
    """Source -> the format that was recognised."""
    prompt_characters_median: float
    answer_characters_median: float
    digest: str
    """sha256 over the ids of all train and eval rows in order: the full data digest."""


class PreparedData(Value):
    """Artifact `prepare`: train.jsonl (Row), eval.jsonl (EvalRow), quarantine.jsonl, report.json."""

    artifact: Artifact
    report: DataReport


class TokenReport(Value):
    """Counts of the tokenisation; logged whole, and as flat `tokenize/…` metrics. Lengths are in tokens."""

    train_sequences: int
    train_tokens: int
    answer_tokens: int
    eval_sequences: int
    eval_tokens: int
    dropped_rows: int
    """Rows over `max_seq_length` that were left out: training and evaluation."""
    truncated_rows: int
    answer_too_long_rows: int = 0
    """Of the dropped rows those whose answer alone is over `max_seq_length`, so that cutting the prompt was no help."""
    eval_dropped_rows: int = 0
    """Of the dropped rows those of the evaluation."""
    length_median: float
    length_p95: float
    length_max: int
    packed_rows: int
    template: str
    """`chat:<sha256 prefix>` or the plain template that was used; of several the first, which evaluation uses."""
    templates: int = 1
    """Plain templates that training rows were rendered with."""
    rows_by_template: dict[str, int] = Field(default_factory=dict)
    """Of several templates each -> the training rows that it rendered and that were kept; packing does not count."""


class TokenizedData(Value):
    """Artifact `tokenize`: sample.md, report.json, train.arrow and eval.arrow.

    Columns: id, input_ids, labels, length, and in the training sequences position_ids where rows are packed.
    """

    artifact: Artifact
    report: TokenReport
