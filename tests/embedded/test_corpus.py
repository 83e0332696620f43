"""Pretraining text and the probe."""

from tasks.embedded import TASKS, probe_text, task_rows
from tasks.embedded.chinese import CHINESE
from tasks.embedded.corpus import documents
from tasks.embedded.english import ENGLISH
from tasks.embedded.names import names_of


def test_documents_are_the_same_every_time_and_fewer_are_the_first_of_more() -> None:
    assert list(documents(50)) == list(documents(200))[:50]


def test_no_held_out_name_occurs_in_the_pretraining_text() -> None:
    text = "\n".join(document.given + document.learnt for document in documents(5000))
    for language in (ENGLISH, CHINESE):
        for split in ("dev", "test"):
            assert not [name for name in names_of(language, split) if name in text]


def test_no_answer_of_a_record_occurs_in_the_pretraining_text() -> None:
    text = "\n".join(document.given + document.learnt for document in documents(5000))
    for task in TASKS:
        if task.startswith("records"):
            assert not [row for row in task_rows(task, "train") if row["completion"] in text]


def test_every_document_has_something_to_learn_and_no_mark_of_the_layout_is_left() -> None:
    for document in documents(2000):
        assert document.learnt.strip()
        assert not set("|{}") & set(document.given + document.learnt)


def test_notes_are_given_and_their_text_is_learnt() -> None:
    document = next(document for document in documents(500) if document.given.endswith("\nText:"))
    assert document.given.startswith("Notes: ")
    assert document.learnt.endswith(".")


def test_the_probe_of_each_split_is_its_own_prose_in_both_languages() -> None:
    test, dev = set(probe_text().splitlines()), set(probe_text("dev").splitlines())
    assert len(test) == len(dev) == 150
    assert not test & dev
    assert any("。" in line for line in test)
    assert any(". " in line for line in test)
