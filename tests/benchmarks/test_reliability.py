"""docs/reliability.md says of each fault which tests there are and what became of the plain script."""

from __future__ import annotations

from benchmarks.findings import Finding
from benchmarks.reliability import DOCUMENT, newest_control, numbered_tests, rows_of, written

ASKED = [*range(1, 25), *range(32, 39), 40, *range(42, 53)]
LINE = "| 06 | SIGKILL in a save | the one before is used | old | old |\n"


def test_the_last_two_columns_come_from_the_tests_and_from_the_record_of_the_control() -> None:
    control = [
        Finding(name="06", done="", saw="", verdict="loud"),
        Finding(name="06", done="", saw="", verdict="silent"),
        Finding(name="06", done="", saw="", verdict="loud"),
        Finding(name="07", done="", saw="", verdict="right"),
    ]
    tests = {"06": {"training/test_a": 2, "faults/test_b": 1}}
    expected = (
        "| 06 | SIGKILL in a save | the one before is used | training/test_a, faults/test_b | 2 loud, 1 silent |\n"
    )
    assert written(f"a\n{LINE}", tests, control) == f"a\n{expected}"
    assert written(expected, tests, control) == expected


def test_every_fault_that_was_asked_for_is_a_row_in_its_order() -> None:
    assert rows_of(DOCUMENT.read_text(encoding="utf-8")) == [f"{number:02}" for number in ASKED]


def test_every_row_has_a_test_with_its_number_and_every_such_test_has_a_row() -> None:
    assert sorted(numbered_tests()) == rows_of(DOCUMENT.read_text(encoding="utf-8"))


def test_every_row_was_asked_of_the_plain_script() -> None:
    assert sorted({finding.name for finding in newest_control()}) == rows_of(DOCUMENT.read_text(encoding="utf-8"))


def test_the_document_is_as_it_would_be_written_now() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert written(text, numbered_tests(), newest_control()) == text, "run python -m benchmarks.reliability"
