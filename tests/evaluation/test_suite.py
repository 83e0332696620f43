from __future__ import annotations

import pytest

from tasks.data.values import EvalRow, Row, Turn
from tasks.evaluation.suite import TokenRow, check_labels, group_questions, kept_rows, labels_for
from tasks.foundation.errors import DataError


def asked(name: str, prompt: str, answer: str, *references: str) -> EvalRow:
    turns = (Turn(role="user", content=prompt), Turn(role="assistant", content=answer))
    return EvalRow(id=name, turns=turns, references=references)


def test_rows_that_share_a_prompt_are_one_question_with_all_their_references() -> None:
    rows = [asked("1", "p", " b", "a", "b"), asked("2", "q", "x", "x"), asked("3", "p", "c", "a", "c")]
    questions = group_questions(rows)
    assert [[row.id for row in question.rows] for question in questions] == [["1", "3"], ["2"]]
    assert [question.references for question in questions] == [("b", "a", "c"), ("x",)]


def test_a_conversation_and_its_last_message_are_different_questions() -> None:
    long = EvalRow(
        id="2",
        turns=(
            Turn(role="system", content="s"),
            Turn(role="user", content="p"),
            Turn(role="assistant", content="a"),
        ),
    )
    questions = group_questions([asked("1", "p", "a"), long])
    assert [question.text for question in questions] == ["p", "system: s\nuser: p"]


def test_raw_texts_stay_by_themselves() -> None:
    questions = group_questions([EvalRow(id="1", text="once"), EvalRow(id="2", text="twice")])
    assert [(question.turns, question.references) for question in questions] == [((), ("once",)), ((), ("twice",))]


def test_only_rows_that_tokenisation_kept_are_asked() -> None:
    rows = [asked("1", "p", "a"), asked("2", "q", "b")]
    assert [row.id for row in kept_rows(rows, [TokenRow("2", [1], [1])])] == ["2"]


def test_no_row_left_after_tokenisation_is_an_error() -> None:
    with pytest.raises(DataError, match="no evaluation row is left"):
        kept_rows([asked("1", "p", "a")], [])


def test_labels_come_from_the_training_rows_in_sorted_order() -> None:
    train: list[Row] = [asked("1", "p", "good"), asked("2", "q", "bad"), asked("3", "r", " good")]
    assert labels_for(None, train) == ("bad", "good")


def test_given_labels_keep_their_order() -> None:
    assert labels_for(("yes", "no", "yes"), []) == ("yes", "no")


def test_labels_that_no_row_uses_are_refused_and_single_strangers_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    questions = group_questions([asked("1", "p", "good"), asked("2", "q", "odd")])
    with pytest.raises(DataError, match=r"no evaluation row is answered by a label, for example 'good'.*Bad, Good"):
        check_labels(("Bad", "Good"), questions)

    check_labels(("bad", "good"), questions)

    assert "1 of 2 prompts have answers that are no label" in caplog.text


def test_more_than_50_distinct_answers_are_no_labels() -> None:
    fifty: list[Row] = [asked(str(n), f"p{n}", f"a{n}") for n in range(50)]
    assert len(labels_for(None, fifty)) == 50
    with pytest.raises(DataError, match=r"more than 50 distinct answers.*Set evaluation\.labels"):
        labels_for(None, [*fifty, asked("50", "p", "a50")])


def test_one_label_is_no_choice() -> None:
    with pytest.raises(DataError, match="at least 2 labels, found 1"):
        labels_for(("yes",), [])
