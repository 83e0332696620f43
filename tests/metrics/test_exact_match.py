from __future__ import annotations

from tasks.metrics.exact_match import ExactMatch
from tests.metrics.worlds import said


def test_any_reference_counts() -> None:
    measured = ExactMatch().measure([said("b", "a", "b"), said("c", "a", "b")])
    assert measured.per_example == (1.0, 0.0)
    assert measured.values == {"exact_match": 0.5}


def test_runs_of_whitespace_are_one_space_and_the_ends_are_stripped() -> None:
    assert ExactMatch().measure([said(" a \n b ", "a b")]).per_example == (1.0,)


def test_case_and_punctuation_are_kept() -> None:
    assert ExactMatch().measure([said("Yes", "yes"), said("yes.", "yes")]).per_example == (0.0, 0.0)
