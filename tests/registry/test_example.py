from __future__ import annotations

from pathlib import Path

from tasks.artifacts import Artifact
from tasks.data.rows import prompt_key, write_rows
from tasks.data.values import DataReport, EvalRow, PreparedData, Turn
from tasks.evaluation.values import EvaluatedCell, Prediction, Scores
from tasks.registry import Example
from tasks.registry.example import find_example

REPORT = DataReport(
    read_rows=0,
    train_rows=0,
    eval_rows=0,
    bad_rows=0,
    duplicate_rows=0,
    leaked_rows=0,
    unused_rows=0,
    prompt_characters_median=0,
    answer_characters_median=0,
    digest="d",
)


def found(folder: Path, *rows: tuple[list[tuple[str, str]], str | None]) -> Example | None:
    """The example among rows of (turns before the answer, prediction)."""
    made = []
    predictions = []
    for turns, prediction in rows:
        asked = [Turn.model_validate({"role": role, "content": content}) for role, content in turns]
        row = EvalRow(id=str(len(made)), turns=(*asked, Turn(role="assistant", content="true answer")))
        made.append(row)
        key = prompt_key(row)
        predictions.append(
            Prediction(id=key, prompt="shown", references=("true answer",), prediction=prediction, rows=())
        )
    write_rows(folder / "eval.jsonl", made)
    (folder / "predictions.jsonl").write_text("".join(each.model_dump_json() + "\n" for each in predictions))
    artifact = Artifact(step="x", key="k", path=folder, digest="d")
    scores = Scores(metrics={}, rows=1, prompts=1, rows_digest="r")
    return find_example(PreparedData(artifact=artifact, report=REPORT), EvaluatedCell(artifact=artifact, scores=scores))


def test_the_first_answered_single_question_is_the_example(tmp_path: Path) -> None:
    history = [("user", "a"), ("assistant", "b"), ("user", "c")]
    example = found(tmp_path, (history, "x"), ([("system", "s"), ("user", "q")], "y"), ([("user", "later")], "z"))
    assert example == Example(prompt="q", system="s", answer="y")


def test_questions_without_an_answer_are_passed_over(tmp_path: Path) -> None:
    assert found(tmp_path, ([("user", "a")], None)) is None
    assert found(tmp_path, ([("user", "a")], None), ([("user", "b")], "")) == Example(prompt="b", answer="")
