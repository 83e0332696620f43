"""G2: what is left of a run when there is next to nothing to train and to evaluate."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import run_plain, run_tuneline
from benchmarks.servers import prefect_server
from benchmarks.world import Work, base_folder, make_world

_WORK = Work(steps=2, train_rows=100, eval_rows=4, max_new_tokens=2)
"""Well below a second of training and evaluation on either side: the wall time is the overhead."""


class Overhead(Benchmark):
    """From the command to the registered version, in a folder where nothing ran before."""

    name: ClassVar[str] = "overhead"
    covers: ClassVar[str] = "G2"
    question: ClassVar[str] = "What does a run cost besides training and evaluation?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        base = base_folder(conditions.scratch)

        def tuneline(name: str, methods: list[str], env: dict[str, str], round_: int) -> float:
            world = make_world(conditions.scratch / f"{name}-{round_}", base, _WORK)
            return run_tuneline(world, "run", world.experiment(methods).name, env=env)

        def plain(round_: int) -> float:
            world = make_world(conditions.scratch / f"plain-{round_}", base, _WORK)
            return run_plain(world, "lora", {"register": "bench"})

        with prefect_server(conditions.scratch / "prefect") as url:
            sides = {
                "cold": lambda at: tuneline("cold", ["lora"], {}, at),
                "served": lambda at: tuneline("served", ["lora"], {"PREFECT_API_URL": url}, at),
                "three": lambda at: tuneline("three", ["lora", "ia3", "full"], {}, at),
                "plain": plain,
            }
            found = taking_turns(conditions.repeats, sides)
        extra = tuple((three - one) / 2 for three, one in zip(found["three"], found["cold"], strict=True))
        return (
            _figure("cold", found["cold"], 15, found["plain"]),
            _figure("with a running Prefect server", found["served"], 8, found["plain"]),
            _figure("per further method", extra, 1, found["plain"]),
        )


def _figure(name: str, ours: tuple[float, ...], limit: float, theirs: tuple[float, ...]) -> Figure:
    against = "the plain script, from its start to its end"
    goal = Goal(at_most=limit, of_value=True)
    return Figure(name=name, unit="s", ours=ours, theirs=theirs, against=against, goal=goal)
