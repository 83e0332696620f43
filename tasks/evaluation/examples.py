"""From what the candidate did to what metrics see, and to the lines that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tasks.data.values import EvalRow
from tasks.evaluation.asking import Findings
from tasks.evaluation.reading import Suite
from tasks.evaluation.suite import Question
from tasks.evaluation.values import Prediction, RowScore
from tasks.metrics import Example, Measurement, Metric, Needs


def examples_for(needs: Needs, suite: Suite, findings: Findings) -> list[Example]:
    """One example per row (likelihood) or per prompt (generation, choice), in the order of the data."""
    if needs == "likelihood":
        return [_row_example(question, row, findings) for question in suite.questions for row in question.rows]
    return [_question_example(question, findings) for question in suite.asked]


def predictions(
    suite: Suite, findings: Findings, measured: Mapping[str, Measurement], metrics: Sequence[Metric]
) -> Iterator[Prediction]:
    """One line per question, with every per-example score."""
    scores: dict[Needs, dict[str, dict[str, float]]] = {"likelihood": {}, "generation": {}, "choice": {}}
    for metric in metrics:
        units = examples_for(metric.needs, suite, findings)
        for unit, score in zip(units, measured[metric.name].per_example, strict=True):
            scores[metric.needs].setdefault(unit.id, {})[metric.name] = score
    for question in suite.questions:
        answer = findings.answers.get(question.id)
        chosen = findings.choices.get(question.id)
        yield Prediction(
            id=question.id,
            prompt=question.text,
            references=question.references,
            prediction=answer,
            label=None if chosen is None else true_label(question, chosen),
            chosen=None if chosen is None else chosen.strip(),
            scores=scores["generation"].get(question.id, {}) | scores["choice"].get(question.id, {}),
            rows=tuple(_row_score(row, findings, scores["likelihood"]) for row in question.rows),
        )


def true_label(question: Question, chosen: str) -> str:
    """The label that counts: the chosen one where the data accepts it among several, else the first row's."""
    return chosen.strip() if chosen.strip() in question.references else question.references[0]


def _row_score(row: EvalRow, findings: Findings, scores: Mapping[str, dict[str, float]]) -> RowScore:
    loss = findings.losses.get(row.id)
    if loss is None:
        return RowScore(id=row.id)
    return RowScore(id=row.id, loss_sum=loss.loss_sum, tokens=loss.tokens, scores=scores.get(row.id, {}))


def _row_example(question: Question, row: EvalRow, findings: Findings) -> Example:
    loss = findings.losses[row.id]
    return Example(
        id=row.id,
        prompt=question.text,
        references=question.references,
        loss_sum=loss.loss_sum,
        tokens=loss.tokens,
    )


def _question_example(question: Question, findings: Findings) -> Example:
    chosen = findings.choices.get(question.id, "")
    return Example(
        id=question.id,
        prompt=question.text,
        references=question.references,
        prediction=findings.answers.get(question.id, ""),
        label=true_label(question, chosen),
        chosen=chosen.strip(),
    )
