"""The control of the fault list: the same faults, done to the plain script."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.control import crashes, damage, gangs, resources, services
from benchmarks.control.stage import SAVE_STEPS, STEPS, Stage, WarmScript
from benchmarks.findings import Finding
from benchmarks.world import Work, base_folder, make_world

_WORK = Work(steps=STEPS, train_rows=200, eval_rows=4, max_new_tokens=2, save_steps=SAVE_STEPS)

_Row = Callable[[Stage], Iterator[Finding]]

_WAITING: tuple[_Row, ...] = (
    services.tracking_away_at_start,
    services.no_network,
    services.tracking_away_in_between,
    services.tracking_away_at_the_end,
    resources.hangs,
)
"""Those that mostly wait come first, beside the others."""

_WORKING: tuple[_Row, ...] = (
    gangs.launcher_killed,
    gangs.starter_killed,
    gangs.rank_killed,
    gangs.rank_stopped,
    gangs.other_world_size,
    gangs.port_in_use,
    *(partial(crashes.killed_at, kill) for kill in crashes.KILLS),
    crashes.killed_in_merge,
    crashes.killed_in_registration,
    crashes.killed_for_memory,
    crashes.started_twice,
    damage.damaged_caches,
    damage.damaged_bases,
    *(partial(damage.damaged_checkpoint, file) for file in damage.CHECKPOINT),
    damage.changed_settings,
    damage.upgraded,
    damage.clock_backwards,
    resources.full_disk,
    resources.full_store,
    resources.unwritable,
    resources.not_finite,
    resources.no_accelerator,
    services.no_such_thing,
)


class Control(Benchmark):
    """Every run is real: the script's imports are paid once, then a process is forked per run; ranks are started by
    torchrun. What it leaves is compared byte for byte with its own undisturbed run."""

    name: ClassVar[str] = "control"
    covers: ClassVar[str] = "control"
    question: ClassVar[str] = "What does the fault list do to the plain script?"

    def measure(self, conditions: Conditions) -> tuple[Finding, ...]:
        base = base_folder(conditions.scratch)
        world = make_world(conditions.scratch / "world", base, _WORK)
        rows = _WORKING[6:10] if conditions.quick else (*_WAITING, *_WORKING)
        with WarmScript(conditions.scratch) as script:
            stage = Stage(conditions.scratch, world, script)
            with ThreadPoolExecutor(len(_WAITING) + (os.cpu_count() or 1)) as pool:
                found = list(pool.map(lambda row: list(row(stage)), rows))
        return tuple(sorted((one for some in found for one in some), key=lambda one: one.name))
