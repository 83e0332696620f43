"""A training of either side whose tracking server goes away and comes back while it trains."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from benchmarks.parts.proxy import Mode, Proxy
from benchmarks.running import ROOT, FailedError, environment
from benchmarks.world import World
from tasks.foundation.values import Value
from tasks.training.recording import MetricLine, read_metrics

_MARGIN = 20
"""Steps at the start of a window that do not count: the way is turned a moment after the step."""

_POLL_SECONDS = 0.02
_BOUND_SECONDS = 300.0
"""How long the script may go on after the outage before nobody waits any longer."""


class Trained(Value):
    """What a training was like."""

    windows: tuple[tuple[Mode, float], ...]
    """How the server was, and the milliseconds per step then."""
    losses: int
    """Steps that the training wrote."""
    tracked: int
    """Of these, those that stand in MLflow once, with the value that the training wrote."""
    ending: str
    """How the process ended, and what MLflow says of its run."""

    def milliseconds(self, mode: Mode) -> tuple[float, ...]:
        """Of all windows of a kind."""
        return tuple(milliseconds for its, milliseconds in self.windows if its == mode)


def train_tuneline(world: World, store: Path, port: int, modes: Sequence[Mode]) -> Trained:
    """`tuneline run` whose server changes its mode after the same number of steps each; it is well again at the end.

    Raises:
        FailedError: the run did not end with 0.
    """
    window = world.work.steps // (len(modes) + 1)
    experiment = world.experiment(["lora"], parallel_cells=1).name
    with Proxy(port) as way, (world.folder / "output.txt").open("wb") as output:
        tracking = (f"tracking.uri={way.uri}", "tracking.flush_seconds=300")
        run = subprocess.Popen(
            [sys.executable, "-m", "flows", "run", experiment, *tracking],
            cwd=world.folder,
            env=environment(world.folder),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        for number, mode in enumerate((*modes, "pass")):
            while run.poll() is None and _steps(world.folder / "runs" / "work") < number * window:
                time.sleep(_POLL_SECONDS)
            way.turn(mode)
        if run.wait():
            raise FailedError((world.folder / "output.txt").read_text(encoding="utf-8")[-3000:])
    (path,) = (world.folder / "runs" / "artifacts" / "train").glob("*/metrics.jsonl")
    lines = [line for line in read_metrics(path) if "train/loss" in line.values]
    return Trained(
        windows=tuple(windows(lines, modes, window)),
        losses=len(lines),
        tracked=_same(store, "train/loss", {line.step: line.values["train/loss"] for line in lines}),
        ending="exit 0",
    )


def _steps(work: Path) -> int:
    """Of the cell that trains: whole lines so far."""
    return sum(path.read_bytes().count(b"\n") for path in work.glob("*/metrics.jsonl"))


def windows(lines: Sequence[MetricLine], modes: Sequence[Mode], window: int) -> list[tuple[Mode, float]]:
    ends = [line.timestamp_ms for line in lines]
    return [
        (mode, (ends[(at + 1) * window - 1] - ends[at * window + _MARGIN]) / (window - 1 - _MARGIN))
        for at, mode in enumerate(modes)
    ]


def train_plainly(world: World, store: Path, port: int, mode: Mode, seconds: float) -> Trained:
    """The plain script with `report_to="mlflow"`; the server is away for some seconds in the middle."""
    with Proxy(port) as way, (world.folder / "output.txt").open("wb") as output:
        arguments = world.plain_arguments("lora", {"tracking-uri": way.uri})
        run = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "plain_script.py"), *arguments],
            cwd=world.folder,
            env=environment(world.folder, world.work.threads),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while run.poll() is None and len(_series(store, "loss")) < world.work.steps // 4:
            time.sleep(0.2)
        way.turn(mode)
        away = time.time()
        time.sleep(seconds)
        way.turn("pass")
        back = time.time()
        with suppress(subprocess.TimeoutExpired):
            run.wait(_BOUND_SECONDS)
        code = run.poll()
        run.kill()
        run.wait()
    steps = _plain_ends(world.folder / "plain" / "lora" / "step_ends.json")
    said = f"exit {code}" if code is not None else f"still running {_BOUND_SECONDS:.0f} s after the outage"
    return Trained(
        windows=tuple(_before_and_during(steps, away, back, mode)),
        losses=world.work.steps,
        tracked=len(_series(store, "loss")),
        ending=f"{said}, MLflow says {_status(store)}",
    )


def _plain_ends(path: Path) -> list[float]:
    ends: list[float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return ends


def _before_and_during(ends: Sequence[float], away: float, back: float, mode: Mode) -> list[tuple[Mode, float]]:
    found: list[tuple[Mode, float]] = []
    healthy = [end for end in ends[_MARGIN:] if end < away]
    troubled = [end for end in ends if away <= end < back]
    parts: tuple[tuple[Mode, list[float]], ...] = (("pass", healthy), (mode, troubled))
    for its, part in parts:
        if len(part) > 1:
            found.append((its, (part[-1] - part[0]) / (len(part) - 1) * 1000))
    return found


def _series(store: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of all runs."""
    with closing(sqlite3.connect(store, timeout=60)) as database:
        return list(database.execute("select step, value from metrics where key = ?", (name,)))


def _same(store: Path, name: str, expected: dict[int, float]) -> int:
    """How many expected steps stand there exactly once, with their value."""
    found: dict[int, list[float]] = {}
    for step, value in _series(store, name):
        found.setdefault(step, []).append(value)
    return sum(found.get(step) == [value] for step, value in expected.items())


def _status(store: Path) -> str:
    with closing(sqlite3.connect(store, timeout=60)) as database:
        return ", ".join(sorted(status for (status,) in database.execute("select status from runs")))
