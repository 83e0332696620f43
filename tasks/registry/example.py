"""Find the question that a package is proven with."""

from __future__ import annotations

from tasks.data.rows import prompt_key, read_eval_rows
from tasks.data.values import PreparedData, Turn
from tasks.evaluation.values import EvaluatedCell, Prediction
from tasks.registry.values import Example


def find_example(prepared: PreparedData, evaluated: EvaluatedCell) -> Example | None:
    """The first answered question that is one user message, with a system message or without.

    None where no metric needed answers, or where every question has earlier answers in it: the served model takes
    single questions.
    """
    turns = {prompt_key(row): row.prompt for row in reversed(read_eval_rows(prepared.artifact.path / "eval.jsonl"))}
    with (evaluated.artifact.path / "predictions.jsonl").open(encoding="utf-8", newline="\n") as file:
        for line in file:
            prediction = Prediction.model_validate_json(line)
            asked = turns.get(prediction.id, ())
            if prediction.prediction is not None and (single := _single(asked)):
                system, prompt = single
                return Example(prompt=prompt, system=system, answer=prediction.prediction)
    return None


def _single(turns: tuple[Turn, ...]) -> tuple[str, str] | None:
    roles = [turn.role for turn in turns]
    if roles == ["user"]:
        return "", turns[0].content
    return (turns[0].content, turns[1].content) if roles == ["system", "user"] else None
