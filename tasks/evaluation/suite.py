"""What is asked: the evaluation rows as tokens, and their distinct prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tasks.data.rows import prompt_key
from tasks.data.values import EvalRow, Row, Turn
from tasks.foundation.errors import DataError

log = logging.getLogger(__name__)

MAX_LABELS = 50


class TokenRow(NamedTuple):
    """One tokenised sequence; labels are -100 where no loss counts."""

    id: str
    input_ids: list[int]
    labels: list[int]


class Question(NamedTuple):
    """One distinct prompt with the rows that share it."""

    id: str
    """sha256 of the prompt, or of the row where there is none."""
    turns: tuple[Turn, ...]
    references: tuple[str, ...]
    """Stripped: the first row's answer, then every other accepted answer, each once."""
    rows: tuple[EvalRow, ...]

    @property
    def text(self) -> str:
        """The prompt for the reader: the message itself, or the whole conversation with its roles."""
        if len(self.turns) == 1:
            return self.turns[0].content
        return "\n".join(f"{turn.role}: {turn.content}" for turn in self.turns)


def group_questions(rows: Sequence[EvalRow]) -> tuple[Question, ...]:
    """Rows that share a prompt become one question, in the order of their first rows.

    Prompts that differ in white space only are one (as in the data step, which gathered the references). A raw text has
    no prompt and stays by itself.
    """
    groups: dict[str, list[EvalRow]] = {}
    for row in rows:
        groups.setdefault(prompt_key(row) if row.turns else row.id, []).append(row)
    return tuple(_question(key, group) for key, group in groups.items())


def _question(key: str, rows: Sequence[EvalRow]) -> Question:
    answers = [row.answer for row in rows[:1]]
    answers += [answer for row in rows for answer in (*row.references, row.answer)]
    references = dict.fromkeys(answer.strip() for answer in answers)
    return Question(key, rows[0].prompt, tuple(text for text in references if text), tuple(rows))


def kept_rows(rows: Sequence[EvalRow], tokens: Sequence[TokenRow]) -> tuple[EvalRow, ...]:
    """The rows that tokenisation kept, in the order of the data: all measures see the same rows.

    Raises:
        DataError: none was kept.
    """
    kept = {row.id for row in tokens}
    chosen = tuple(row for row in rows if row.id in kept)
    if not chosen:
        raise DataError("no evaluation row is left after tokenisation", fix="Raise data.max_seq_length")
    return chosen


def labels_for(chosen: tuple[str, ...] | None, train: Iterable[Row]) -> tuple[str, ...]:
    """The answers to choose among: the given ones, or the distinct answers of the training rows in sorted order.

    Raises:
        DataError: fewer than 2, or more than 50 in the training rows.
    """
    labels = tuple(dict.fromkeys(chosen)) if chosen is not None else _distinct_answers(train)
    if len(labels) < 2:
        raise DataError(
            f"accuracy and f1 choose among at least 2 labels, found {len(labels)}", where="evaluation.labels"
        )
    return labels


def check_labels(labels: Sequence[str], questions: Sequence[Question]) -> None:
    """Count the questions that no label answers: they can only be wrong.

    Raises:
        DataError: that is so for all of them, since labels and answers are written differently.
    """
    known = {label.strip() for label in labels}
    hopeless = [question for question in questions if known.isdisjoint(question.references)]
    if questions and len(hopeless) == len(questions):
        raise DataError(
            f"no evaluation row is answered by a label, for example {hopeless[0].references[0]!r}",
            where="evaluation.labels",
            allowed=", ".join(sorted(known)[:MAX_LABELS]),
            fix="Write the labels as the answers are written, or the other way round",
        )
    if hopeless:
        log.warning(
            "%d of %d prompts have answers that are no label; they count as wrong", len(hopeless), len(questions)
        )


def _distinct_answers(train: Iterable[Row]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for row in train:
        found.setdefault(row.answer.strip(), row.answer)
        if len(found) > MAX_LABELS:
            raise DataError(
                f"the training rows have more than {MAX_LABELS} distinct answers, so they are no labels",
                where="evaluation.metrics",
                fix="Set evaluation.labels, or leave accuracy and f1 out",
            )
    return tuple(found[label] for label in sorted(found))
