"""G3: six methods compared by tuneline, and the same six as scripts one after another."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import run_plain, run_tuneline
from benchmarks.world import METHODS, World, base_folder, make_world, usual_work


class Comparison(Benchmark):
    """From the first command to the registered version. tuneline evaluates the untuned base as well and proves its
    merges; the scripts do not, and register one model at the end."""

    name: ClassVar[str] = "comparison"
    covers: ClassVar[str] = "G3"
    question: ClassVar[str] = "How long do six methods take, compared with six scripts one after another?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = usual_work(conditions)
        base = base_folder(conditions.scratch)

        def tuneline(round_: int) -> float:
            world = make_world(conditions.scratch / f"tuneline-{round_}", base, work)
            return run_tuneline(world, "run", world.experiment(list(METHODS)).name)

        def plain(round_: int) -> float:
            return scripts(make_world(conditions.scratch / f"plain-{round_}", base, work))

        found = taking_turns(conditions.repeats, {"tuneline": tuneline, "plain": plain})
        return (
            Figure(
                name="six methods",
                unit="s",
                ours=found["tuneline"],
                theirs=found["plain"],
                against="six plain scripts one after another, the last of which registers its model",
                goal=Goal(at_most=0.85),
                note=f"{work.steps} steps, {work.eval_rows} evaluation rows, each side's own default of threads",
            ),
        )


def scripts(world: World) -> float:
    """Seconds of one plain script per method."""
    *others, last = METHODS
    return sum(run_plain(world, method) for method in others) + run_plain(world, last, {"register": "bench"})
