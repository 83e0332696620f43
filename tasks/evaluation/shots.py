"""How the questions are put: as the data step rendered them, or by the hard prompt of a method."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from tasks.data.dialects import Examples
from tasks.data.fitting import fit
from tasks.data.rows import prompt_key, read_rows
from tasks.data.selection import in_order, leaked_ids
from tasks.data.values import Row
from tasks.evaluation.choices import label_rows
from tasks.evaluation.loaded import Loaded
from tasks.evaluation.reading import Suite
from tasks.evaluation.suite import Question, TokenRow
from tasks.evaluation.values import EvaluationJob, ShotCount
from tasks.foundation.errors import DataError
from tasks.methods import Prompting
from tasks.metrics import Needs

log = logging.getLogger(__name__)


class Wording(NamedTuple):
    """The evaluation rows as they are asked, and what stands in front of each question."""

    rows: Sequence[TokenRow]
    examples: Mapping[str, Examples] = {}
    """Question id -> the examples in front of it, the same ones in every measure."""
    counted: ShotCount | None = None
    """None without examples."""


def word(loaded: Loaded, job: EvaluationJob, suite: Suite, needs: AbstractSet[Needs]) -> Wording:
    """The tokens of the data step where the method has no hard prompt, else the rows rendered by that.

    Raises:
        DataError: the training rows hold too few examples, or none fits in front of any question.
    """
    if loaded.prompting is None:
        return Wording(suite.tokens)
    chosen = choose_examples(job, suite, loaded.prompting)
    prompter = _HardPrompt(loaded, job, suite, needs)
    examples = {question.id: prompter.fitting(question, chosen) for question in suite.questions}
    rows = [row for question in suite.questions for row in prompter.rows(question, examples[question.id])]
    return Wording(rows, examples, _counted(chosen, examples) if chosen else None)


def choose_examples(job: EvaluationJob, suite: Suite, prompting: Prompting) -> tuple[Row, ...]:
    """Training rows by the hash of seed and content, each with another prompt, none with one that is asked.

    Raises:
        DataError: there are fewer than `shots`.
    """
    if not prompting.shots:
        return ()
    train = read_rows(job.prepared.artifact.path / "train.jsonl")
    leaked, seen = leaked_ids(train, suite.rows), {prompt_key(row) for row in suite.rows}
    chosen: list[Row] = []
    for row in in_order(train, prompting.seed):
        if row.turns and row.id not in leaked and (key := prompt_key(row)) not in seen:
            seen.add(key)
            chosen.append(row)
    if len(chosen) < prompting.shots:
        raise DataError(
            f"{prompting.shots} examples are asked for, and the training rows hold {len(chosen)} different prompts "
            "that the evaluation does not ask",
            where=f"methods[{job.candidate.label}].shots",
            fix="Lower shots, or take more training rows",
        )
    return tuple(chosen[: prompting.shots])


class _HardPrompt:
    """Renders questions behind examples, and knows what fits.

    Args:
        needs: what will be asked of each question.
    """

    def __init__(self, loaded: Loaded, job: EvaluationJob, suite: Suite, needs: AbstractSet[Needs]) -> None:
        self._loaded = loaded
        self._job = job
        self._labels = suite.labels if "choice" in needs else ()
        self._new_tokens = job.settings.max_new_tokens if "generation" in needs else 0

    def fitting(self, question: Question, chosen: Sequence[Row]) -> Examples:
        """The last so many examples with which the question and its longest answer fit into the model's context."""
        every = tuple(row.turns for row in chosen) if question.turns else ()
        for skipped in range(len(every)):
            if max(self._lengths(question, every[skipped:])) <= self._loaded.room:
                return every[skipped:]
        return ()

    def rows(self, question: Question, examples: Examples) -> Iterator[TokenRow]:
        """The question's rows; without examples one over `max_seq_length` is cut as the data step cut it."""
        found = self._loaded.renderer.encode(question.rows, examples)
        for row, encoded in zip(question.rows, found, strict=True):
            cuts = not examples and self._job.data.truncation == "truncate"
            kept = (fit(encoded, self._job.data, row.source)[0] if cuts else None) or encoded
            yield TokenRow(row.id, kept.input_ids, kept.labels)

    def _lengths(self, question: Question, examples: Examples) -> Iterator[int]:
        """In tokens, of everything that is asked."""
        yield from (len(row.input_ids) for row in self.rows(question, examples))
        yield len(self._loaded.renderer.prompt_ids(question.turns, examples)) + self._new_tokens
        labelled = label_rows(self._loaded, [question], self._labels, {question.id: examples})
        yield from (len(row.input_ids) for row in labelled)


def _counted(chosen: Sequence[Row], examples: Mapping[str, Examples]) -> ShotCount:
    """Raises:
    DataError: no question has an example, so that a zero-shot evaluation would be called a few-shot one.
    """
    missing = [len(chosen) - len(found) for found in examples.values()]
    if min(missing) == len(chosen):
        raise DataError(
            "no example fits into the model's context together with a question and its answer",
            where="methods.shots",
            fix="Take shots out, lower evaluation.max_new_tokens, or take a model with a longer context",
        )
    if short := sum(map(bool, missing)):
        log.warning("%d of %d prompts stand behind fewer than %d examples", short, len(missing), len(chosen))
    return ShotCount(asked=len(chosen), dropped=sum(missing), short_prompts=short, rows=tuple(row.id for row in chosen))
