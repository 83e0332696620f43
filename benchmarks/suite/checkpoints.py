"""What checkpoints cost a training that makes them at the default interval."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure
from benchmarks.running import run_plain, run_tuneline
from benchmarks.steps import WARM_UP, checkpoint_milliseconds, plain_step_ends, tuneline_step_ends
from benchmarks.world import Work, World, base_folder, make_world

_METHOD = "lora"
_NO_SAVING = 100_000
_INTERVAL = 100
"""`training.save_steps` where the experiment says nothing."""


class Checkpoints(Benchmark):
    """One LoRA cell. Sealing, syncing and verifying are ours; the plain script writes the files and no more."""

    name: ClassVar[str] = "checkpoints"
    covers: ClassVar[str] = "-"
    question: ClassVar[str] = "What do checkpoints at the default interval cost?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        steps = conditions.size(3 * _INTERVAL, _INTERVAL) + 10
        work = Work(steps=steps, train_rows=conditions.size(2400, 900), eval_rows=4, max_new_tokens=4, threads=1)
        base = base_folder(conditions.scratch)
        stalls: dict[str, list[float]] = {"tuneline": [], "plain": []}

        def side(name: str, save_steps: int, round_: int) -> float:
            folder = conditions.scratch / f"{name}-{save_steps}-{round_}"
            world = make_world(folder, base, work.model_copy(update={"save_steps": save_steps}))
            ends = _ours(world) if name == "tuneline" else _theirs(world)
            if save_steps == _INTERVAL:
                stalls[name].append(checkpoint_milliseconds(ends, _INTERVAL))
            return mean_milliseconds(ends)

        sides = {
            "with": partial(side, "tuneline", _INTERVAL),
            "without": partial(side, "tuneline", _NO_SAVING),
            "plain": partial(side, "plain", _INTERVAL),
        }
        found = taking_turns(conditions.repeats, sides)
        stall = {name: tuple(values) for name, values in stalls.items()}
        return (
            _figure("step, on average", found["with"], found["without"], "the same without checkpoints"),
            _figure("one checkpoint", stall["tuneline"], stall["plain"], "a checkpoint of the plain script"),
        )


def mean_milliseconds(ends: list[float]) -> float:
    """Time per step after the warm-up, with everything that stands between the steps."""
    warm = ends[WARM_UP:]
    return (warm[-1] - warm[0]) / (len(warm) - 1) * 1000


def _ours(world: World) -> list[float]:
    run_tuneline(world, "run", world.experiment([_METHOD], parallel_cells=1).name)
    return tuneline_step_ends(world)


def _theirs(world: World) -> list[float]:
    run_plain(world, _METHOD, {"report-to": "none"})
    return plain_step_ends(world, _METHOD)


def _figure(name: str, ours: tuple[float, ...], theirs: tuple[float, ...], against: str) -> Figure:
    return Figure(name=name, unit="ms", ours=ours, theirs=theirs, against=against)
