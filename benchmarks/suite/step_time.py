"""G1: how long a training step takes under tuneline and in the plain script."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import run_plain, run_tuneline
from benchmarks.steps import plain_step_ends, step_milliseconds, tuneline_step_ends
from benchmarks.world import Work, World, base_folder, make_world

_METHOD = "lora"
_NO_SAVING = 100_000


class StepTime(Benchmark):
    """The same rows, batch size, steps and seed, one torch thread each, no checkpoints, a logged loss per step."""

    name: ClassVar[str] = "step-time"
    covers: ClassVar[str] = "G1"
    question: ClassVar[str] = "What does a training step cost, compared with the plain script?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        work = Work(
            steps=conditions.size(300, 50), train_rows=conditions.size(2400, 400), eval_rows=4, max_new_tokens=4
        )
        work = work.model_copy(update={"save_steps": _NO_SAVING, "threads": 1})
        base = base_folder(conditions.scratch)

        def in_new_world(name: str, run: Callable[[World], float], round_: int) -> float:
            return run(make_world(conditions.scratch / f"{name}-{round_}", base, work))

        sides = {
            "tuneline": partial(in_new_world, "tuneline", tuneline_step),
            "mlflow": partial(in_new_world, "mlflow", plain_step),
            "none": partial(in_new_world, "none", partial(plain_step, report_to="none")),
        }
        found = taking_turns(conditions.repeats, sides)
        return (
            _figure("whole step", found["tuneline"], found["mlflow"], 'the plain script (report_to="mlflow")'),
            _figure("whole step", found["tuneline"], found["none"], 'the plain script with report_to="none"'),
        )


def tuneline_step(world: World) -> float:
    """Milliseconds per step under `tuneline run`, one cell at a time."""
    run_tuneline(world, "run", world.experiment([_METHOD], parallel_cells=1).name)
    return step_milliseconds(tuneline_step_ends(world))


def plain_step(world: World, report_to: str = "mlflow") -> float:
    """Milliseconds per step in the plain script."""
    run_plain(world, _METHOD, {"report-to": report_to})
    return step_milliseconds(plain_step_ends(world, _METHOD))


def _figure(name: str, ours: tuple[float, ...], theirs: tuple[float, ...], against: str) -> Figure:
    goal = Goal(at_most=1.02)
    return Figure(name=name, unit="ms", ours=ours, theirs=theirs, against=against, goal=goal)
