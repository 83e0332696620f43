"""How long the way back takes, from the shell's prompt to the alias that stands where it stood."""

from __future__ import annotations

import sys
from functools import partial
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import environment, run_tuneline, seconds_of
from benchmarks.world import Work, World, base_folder, make_world

_BY_HAND = (
    "from mlflow import MlflowClient;"
    "MlflowClient('sqlite:///mlflow.db').set_registered_model_alias('bench', 'by_hand', '1')"
)
_AGAINST = "MLflow's `set_registered_model_alias` in a process of its own, which verifies and notes nothing"


class Rollback(Benchmark):
    """Before each measured rollback the second version is promoted again, which is not measured. Every file of the
    version that it goes back to is verified."""

    name: ClassVar[str] = "rollback"
    covers: ClassVar[str] = "< 5 s"
    question: ClassVar[str] = "How long does a rollback take?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = Work(steps=10, train_rows=200, eval_rows=20, max_new_tokens=8)
        world = make_world(conditions.scratch / "world", base_folder(conditions.scratch), work)
        experiment = world.experiment(["full"]).name
        (world.folder / "open.yaml").write_text("champion: {require: nothing}\n", encoding="utf-8")
        for version in (1, 2):
            run_tuneline(world, "run", experiment, f"training.max_steps={work.steps + version}")
        _promote(world, 1)
        sides = {"tuneline": partial(_roll_back, world), "MLflow": partial(_by_hand, world)}
        taking_turns(1, sides)
        walls = taking_turns(conditions.repeats, sides)
        goal = Goal(at_most=5.0, of_value=True)
        ours, theirs = walls["tuneline"], walls["MLflow"]
        return (Figure(name="tuneline rollback", unit="s", ours=ours, theirs=theirs, against=_AGAINST, goal=goal),)


def _promote(world: World, version: int) -> None:
    gate = ("--gate", "open.yaml", "--reason", "measured")
    run_tuneline(world, "promote", "bench", "--version", str(version), *gate)


def _roll_back(world: World, number: int) -> float:
    _promote(world, 2)
    return run_tuneline(world, "rollback", "bench", "--reason", f"measured in round {number}")


def _by_hand(world: World, number: int) -> float:
    return seconds_of([sys.executable, "-c", _BY_HAND], world.folder, environment(world.folder))
