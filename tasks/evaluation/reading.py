"""Read what the data steps left: the evaluation rows, their tokens, and the labels to choose among."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tasks.data.rows import read_eval_rows, read_rows
from tasks.data.values import EvalRow
from tasks.evaluation.suite import Question, TokenRow, check_labels, group_questions, kept_rows, labels_for
from tasks.evaluation.values import EvaluationJob
from tasks.foundation.errors import DataError
from tasks.metrics import Needs


class Suite(NamedTuple):
    """All that is asked of every candidate."""

    rows: tuple[EvalRow, ...]
    tokens: tuple[TokenRow, ...]
    questions: tuple[Question, ...]
    labels: tuple[str, ...]
    """Empty when no metric needs a choice."""

    @property
    def asked(self) -> tuple[Question, ...]:
        """Questions that have a prompt: a raw text cannot be answered."""
        return tuple(question for question in self.questions if question.turns)


def read_suite(job: EvaluationJob, needs: AbstractSet[Needs]) -> Suite:
    """The rows that tokenisation kept, grouped by prompt.

    Raises:
        DataError: no rows, no prompts where a metric needs answers, or no set of labels where one needs a choice.
    """
    prepared, tokenized = job.prepared.artifact.path, job.tokens.artifact.path
    tokens = read_tokens(tokenized / "eval.arrow")
    rows = kept_rows(read_eval_rows(prepared / "eval.jsonl"), tokens)
    labels = labels_for(job.settings.labels, read_rows(prepared / "train.jsonl")) if "choice" in needs else ()
    suite = Suite(rows, tokens, group_questions(rows), labels)
    if needs - {"likelihood"} and not suite.asked:
        raise DataError(
            "the evaluation rows are raw text without prompts, so nothing can be answered",
            where="evaluation.metrics",
            allowed="loss, perplexity",
        )
    if "choice" in needs:
        check_labels(labels, suite.asked)
    return suite


def read_tokens(path: Path) -> tuple[TokenRow, ...]:
    """Sequences of an arrow file, in its order."""
    with pa.memory_map(str(path)) as source:
        columns = pa.ipc.open_stream(source).read_all().to_pydict()
    return tuple(map(TokenRow, columns["id"], columns["input_ids"], columns["labels"]))
