from __future__ import annotations

from tasks.data.values import EvalRow, Turn
from tasks.evaluation.examples import true_label
from tasks.evaluation.suite import group_questions

(QUESTION,) = group_questions(
    [
        EvalRow(id=str(n), turns=(Turn(role="user", content="cold tea"), Turn(role="assistant", content=answer)))
        for n, answer in enumerate(("good", "bad"))
    ]
)


def test_where_several_labels_are_accepted_the_chosen_one_is_the_true_one() -> None:
    assert true_label(QUESTION, " bad") == "bad"


def test_a_wrong_choice_is_held_against_the_first_rows_label() -> None:
    assert true_label(QUESTION, "mixed") == "good"
