"""The most likely label for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.data.dialects import Examples
from tasks.data.values import EvalRow, Turn
from tasks.evaluation.likelihood import RowLoss
from tasks.evaluation.loaded import Loaded
from tasks.evaluation.suite import Question, TokenRow


def label_rows(
    loaded: Loaded, questions: Sequence[Question], labels: Sequence[str], examples: Mapping[str, Examples] = {}
) -> list[TokenRow]:
    """Every question, behind its examples, with every label as its answer; question by question.

    Args:
        loaded: its renderer renders as in training.
        questions: what is asked.
        labels: the answers.
        examples: question id -> what stands in front of it.
    """
    return [
        _with_answer(loaded, question, label, examples.get(question.id, ()))
        for question in questions
        for label in labels
    ]


def most_likely_labels(losses: Sequence[RowLoss], labels: Sequence[str]) -> list[str]:
    """Per question the label whose tokens, the end token included, have the highest sum of log-probabilities.

    The sum is not divided by the length: the end token makes labels of unequal length comparable. Of equally likely
    ones the first label wins.

    Args:
        losses: of `label_rows`, in its order.
        labels: the labels, in the order that `label_rows` saw.
    """
    sums = [loss.loss_sum for loss in losses]
    groups = (sums[begin : begin + len(labels)] for begin in range(0, len(sums), len(labels) or 1))
    return [labels[group.index(min(group))] for group in groups]


def _with_answer(loaded: Loaded, question: Question, label: str, examples: Examples) -> TokenRow:
    row = EvalRow(id=question.id, turns=(*question.turns, Turn(role="assistant", content=label)))
    return TokenRow(question.id, *loaded.renderer.row_ids(row, examples))
