"""G14: the same command again, when nothing changed."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.figures import Figure, Goal
from benchmarks.running import run_tuneline
from benchmarks.world import METHODS, World, base_folder, make_world, usual_work


class Rerun(Benchmark):
    """Every step is verified by sha256 and adopted; nothing is trained, merged, evaluated or registered again."""

    name: ClassVar[str] = "rerun"
    covers: ClassVar[str] = "G14"
    question: ClassVar[str] = "How long does an unchanged comparison take the second time?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = usual_work(conditions)
        base = base_folder(conditions.scratch)
        methods = list(METHODS)[: conditions.size(len(METHODS), 2)]
        worlds = [make_world(conditions.scratch / str(at), base, work) for at in range(conditions.repeats)]
        first, again = zip(*(twice(world, methods) for world in worlds), strict=True)
        return (
            Figure(
                name=f"{len(methods)} methods, again",
                unit="s",
                ours=again,
                theirs=first,
                against="the first run",
                goal=Goal(at_most=0.03),
                note="imports, Prefect, verification and the record are left, so the share falls with the work",
            ),
        )


def twice(world: World, methods: list[str]) -> tuple[float, float]:
    """Seconds of the first and of the second run."""
    name = world.experiment(methods).name
    return run_tuneline(world, "run", name), run_tuneline(world, "run", name)
