from __future__ import annotations

from pathlib import Path

from benchmarks import suite
from benchmarks.base import all_benchmarks, taking_turns


def test_every_file_of_the_suite_is_a_benchmark_and_is_listed() -> None:
    files = {path.stem for path in Path(suite.__file__).parent.glob("*.py")} - {"__init__"}
    known = all_benchmarks()
    assert {benchmark.__module__.rpartition(".")[2] for benchmark in known.values()} == files
    assert len(known) == len(files)


def test_the_goals_that_were_asked_for_are_covered() -> None:
    covered = {benchmark.covers for benchmark in all_benchmarks().values()}
    assert covered >= {"G1", "G2", "G3", "G7", "G10", "G11", "G13", "G14"}


def test_sides_take_turns_and_each_round_begins_with_the_other_one() -> None:
    calls: list[str] = []

    def side(name: str, number: int) -> float:
        calls.append(f"{name}{number}")
        return float(number)

    found = taking_turns(3, {"a": lambda at: side("a", at), "b": lambda at: side("b", at)})
    assert calls == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert found == {"a": (0.0, 1.0, 2.0), "b": (0.0, 1.0, 2.0)}
