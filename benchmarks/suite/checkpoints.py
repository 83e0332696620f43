"""What checkpoints cost a training that makes them at the default interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.control.stage import WarmScript
from benchmarks.figures import Figure, Goal
from benchmarks.running import measured_part
from benchmarks.steps import checkpoint_milliseconds, mean_milliseconds, plain_step_ends
from benchmarks.world import Work, base_folder, make_world

_KINDS = ("lora", "full")
_NO_SAVING = 100_000
_INTERVAL = 100
"""`training.save_steps` where the experiment says nothing."""

_GOAL = Goal(at_most=1.05)


class Checkpoints(Benchmark):
    """A LoRA and a full cell, trained by the worker with checkpoints and without, taking turns; the same of the plain
    script, which writes its files and no more, while ours are digested, synced, verified and renamed. The last
    checkpoint, at the end, both sides make in any case; it is not in the time per step."""

    name: ClassVar[str] = "checkpoints"
    covers: ClassVar[str] = "-"
    question: ClassVar[str] = "What do checkpoints at the default interval cost?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        steps = conditions.size(4 * _INTERVAL, _INTERVAL) + 10
        work = Work(steps=steps, train_rows=conditions.size(3400, 900), eval_rows=4, max_new_tokens=4, threads=1)
        base = base_folder(conditions.scratch)
        world = make_world(conditions.scratch / "ours", base, work)
        rounds = str(conditions.repeats)
        ours = measured_part("train_cells", world.folder, str(world.folder), str(base), str(steps), rounds)["cells"]
        stalls: dict[str, list[float]] = {kind: [] for kind in _KINDS}

        def plain(script: WarmScript, kind: str, save_steps: int, round_: int) -> float:
            folder = conditions.scratch / f"plain-{kind}-{save_steps}-{round_}"
            world = make_world(folder, base, work.model_copy(update={"save_steps": save_steps}))
            script.run(folder, world.plain_arguments(kind, {"report-to": "none"}))
            ends = plain_step_ends(world, kind)
            if save_steps == _INTERVAL:
                stalls[kind].append(checkpoint_milliseconds(ends, _INTERVAL))
            return mean_milliseconds(ends)

        both = [(kind, at) for kind in _KINDS for at in (_INTERVAL, _NO_SAVING)]
        with WarmScript(conditions.scratch) as script:
            sides = {f"{kind} {at}": partial(plain, script, kind, at) for kind, at in both}
            theirs = taking_turns(conditions.repeats, sides)
        return tuple(figure for kind in _KINDS for figure in figures_of(kind, ours, theirs, tuple(stalls[kind])))


def figures_of(
    kind: str, cells: Sequence[dict[str, Any]], plain: dict[str, tuple[float, ...]], stalls: tuple[float, ...]
) -> tuple[Figure, ...]:
    cells = [cell for cell in cells if cell["kind"] == kind]
    ours = {saves: tuple(cell["step_ms"] for cell in cells if cell["saves"] is saves) for saves in (True, False)}
    made = [one for cell in cells if cell["saves"] for one in cell["checkpoints"]]
    theirs = {saves: plain[f"{kind} {at}"] for saves, at in ((True, _INTERVAL), (False, _NO_SAVING))}
    alone = "the same training without checkpoints"
    size = f"{made[0]['bytes'] / 2**20:.1f} MiB, {made[0]['fsyncs']:.0f} fsyncs each"
    return (
        Figure(name=f"{kind}, step", unit="ms", ours=ours[True], theirs=ours[False], against=alone, goal=_GOAL),
        Figure(name=f"{kind}, step of the script", unit="ms", ours=theirs[True], theirs=theirs[False], against=alone),
        Figure(
            name=f"{kind}, one checkpoint",
            unit="ms",
            ours=tuple(one["ms"] for one in made),
            theirs=stalls,
            against="what the script's next step takes longer after a checkpoint of its own",
            note=f"{kind}: {size}",
        ),
        Figure(name=f"{kind}, of that waiting for the disk", unit="ms", ours=tuple(one["fsync_ms"] for one in made)),
    )
