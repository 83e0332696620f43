"""G11: commands that train nothing answer at once."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import environment, run_tuneline, seconds_of
from benchmarks.world import Work, base_folder, make_world

_AGAINST = "`python -c 'import peft'`, which is where the plain script begins"


class Startup(Benchmark):
    """Each in a process of its own; a first, unmeasured round fills the caches of the disk."""

    name: ClassVar[str] = "startup"
    covers: ClassVar[str] = "G11"
    question: ClassVar[str] = "How long does the command line take to answer?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = Work(steps=10, train_rows=200, eval_rows=20, max_new_tokens=8)
        world = make_world(conditions.scratch / "world", base_folder(conditions.scratch), work)
        experiment = world.experiment(["lora", "full"]).name
        command = [sys.executable, "-c", "import peft"]
        sides: dict[str, Callable[[int], float]] = {
            "--help": lambda at: run_tuneline(world, "--help"),
            "validate": lambda at: run_tuneline(world, "validate", experiment),
            "peft": lambda at: seconds_of(command, world.folder, environment(world.folder)),
        }
        taking_turns(1, sides)
        walls = taking_turns(conditions.repeats, sides)
        cpu = taking_turns(conditions.repeats, {name: partial(cpu_seconds, side) for name, side in sides.items()})
        return (
            _figure("--help", walls, Goal(at_most=0.3, of_value=True)),
            _figure("validate", walls, Goal(at_most=0.5, of_value=True)),
            _figure("--help, CPU", cpu, None),
            _figure("validate, CPU", cpu, None),
        )


def cpu_seconds(side: Callable[[int], float], number: int) -> float:
    """CPU time of the process that a side starts: on an idle machine its wall time, on a busy one less."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    side(number)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _figure(name: str, found: dict[str, tuple[float, ...]], goal: Goal | None) -> Figure:
    ours = found[name.removesuffix(", CPU")]
    return Figure(name=f"tuneline {name}", unit="s", ours=ours, theirs=found["peft"], against=_AGAINST, goal=goal)
