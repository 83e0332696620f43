"""Step times from what both sides recorded while they trained."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence

from benchmarks.world import World
from tasks.training.recording import read_metrics

WARM_UP = 20
"""Steps at the start that do not count: first allocations, lazy imports, the audit of the first three steps."""

_WINDOW = 10


def tuneline_step_ends(world: World) -> list[float]:
    """Seconds since 1970 at which each step of the only trained cell was logged."""
    (path,) = (world.folder / "runs" / "artifacts" / "train").glob("*/metrics.jsonl")
    return [line.timestamp_ms / 1000 for line in read_metrics(path) if "train/loss" in line.values]


def plain_step_ends(world: World, method: str) -> list[float]:
    """Seconds since 1970 at which each step ended."""
    path = world.folder / "plain" / method / "step_ends.json"
    ends: list[float] = json.loads(path.read_text(encoding="utf-8"))
    return ends


def step_milliseconds(ends: Sequence[float], warm_up: int = WARM_UP, window: int = _WINDOW) -> float:
    """Whole time per step: data, forward, backward, optimiser, and everything that waits between two steps.

    The median over windows of some steps, since the recorded times have a resolution of a millisecond.
    """
    warm = ends[warm_up::window]
    return statistics.median((end - start) / window * 1000 for start, end in itertools.pairwise(warm))


def mean_milliseconds(ends: Sequence[float]) -> float:
    """Time per step after the warm-up, with everything that stands between the steps."""
    warm = ends[WARM_UP:]
    return (warm[-1] - warm[0]) / (len(warm) - 1) * 1000


def checkpoint_milliseconds(ends: Sequence[float], save_steps: int) -> float:
    """What a step that follows a checkpoint takes longer than others, in the median over all checkpoints."""
    lengths = [(end - start) * 1000 for start, end in itertools.pairwise(ends)]
    after = lengths[save_steps - 1 :: save_steps]
    return statistics.median(after) - statistics.median(lengths)
