from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.base import Conditions
from benchmarks.figures import Figure, Goal
from benchmarks.records import Machine, keep, new_record
from benchmarks.steps import checkpoint_milliseconds, step_milliseconds

MACHINE = Machine(cores=2, cpu="a", memory_gib=4, load=0.1, python="3.11", versions={})


def test_the_ratio_is_that_of_the_medians() -> None:
    figure = Figure(name="x", unit="s", ours=(1.0, 9.0, 2.0), theirs=(4.0, 100.0, 3.0))
    assert (figure.median, figure.their_median, figure.ratio) == (2.0, 4.0, 0.5)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(at_most=0.5), True),
        (Goal(at_most=0.49), False),
        (Goal(at_least=0.5), True),
        (Goal(at_least=0.51), False),
        (Goal(at_most=2.0, of_value=True), True),
        (Goal(at_most=1.9, of_value=True), False),
    ],
)
def test_a_goal_judges_the_ratio_or_our_own_median(goal: Goal, met: bool) -> None:
    assert Figure(name="x", unit="s", ours=(2.0,), theirs=(4.0,), goal=goal).met is met


def test_a_ratio_goal_judges_nothing_where_there_is_no_baseline() -> None:
    assert Figure(name="x", unit="s", ours=(2.0,), goal=Goal(at_most=0.5)).met is None


def test_a_step_counts_from_the_end_of_the_one_before_and_warm_up_does_not() -> None:
    ends = [float(at) for at in range(4)] + [3 + 0.5 * at for at in range(1, 9)]
    assert step_milliseconds(ends, warm_up=3, window=2) == 500.0


def test_a_checkpoint_costs_what_the_step_after_it_takes_longer() -> None:
    ends = [0.1, 0.2, 0.3, 0.45, 0.55, 0.65, 0.8]  # checkpoints after steps 3 and 6
    assert checkpoint_milliseconds(ends, 3) == pytest.approx(50)


def test_runs_are_appended_and_only_the_last_twenty_stay(tmp_path: Path) -> None:
    conditions = Conditions(repeats=1, quick=True, scratch=tmp_path)
    for at in range(22):
        figure = Figure(name="x", unit="s", ours=(float(at),), theirs=(10.0,), goal=Goal(at_most=1))
        keep(new_record((figure,), conditions, MACHINE), tmp_path / "results" / "x.json")
    records = json.loads((tmp_path / "results" / "x.json").read_text(encoding="utf-8"))
    assert [record["figures"][0]["ours"] for record in records] == [[float(at)] for at in range(2, 22)]
    assert (records[-1]["figures"][0]["ratio"], records[-1]["figures"][0]["met"]) == (2.1, False)
    assert (records[-1]["machine"]["cores"], records[-1]["quick"]) == (2, True)
