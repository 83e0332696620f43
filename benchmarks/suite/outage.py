"""What an outage of the tracking server costs the training, and what is lost by it."""

from __future__ import annotations

import statistics
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.figures import Figure, Goal
from benchmarks.findings import Finding, Verdict
from benchmarks.outages import Trained, train_plainly, train_tuneline
from benchmarks.parts.proxy import Mode
from benchmarks.servers import mlflow_server
from benchmarks.world import Work, World, base_folder, make_world

_TROUBLES: tuple[Mode, ...] = ("refuse", "error 500", "black hole")
_NO_SAVING = 1_000_000


class Outage(Benchmark):
    """One long training before a real MLflow server that is well, refuses, answers 500 and answers nothing, for the
    same number of steps each, round after round: three troubles on end are one outage of minutes. A window counts from
    its first step to its last, so nothing that waits is left out; those in which the server is back include the
    catching up. The plain script meets each trouble once."""

    name: ClassVar[str] = "outage"
    covers: ClassVar[str] = "-"
    question: ClassVar[str] = "Does training notice that the tracking server is away?"

    def measure(self, conditions: Conditions) -> tuple[Figure | Finding, ...]:
        window = conditions.size(300, 40)
        modes: list[Mode] = [mode for _ in range(conditions.repeats) for mode in ("pass", *_TROUBLES)]
        ours = self._ours(conditions, modes, window)
        healthy = ours.milliseconds("pass")
        seconds = window * statistics.median(healthy) / 1000
        plain = {mode: self._plain(conditions, mode, window, seconds) for mode in _TROUBLES}
        return (
            *(_figure(mode, ours.milliseconds(mode), healthy) for mode in _TROUBLES),
            _kept(ours),
            *(_said(mode, trained, seconds) for mode, trained in plain.items()),
        )

    def _ours(self, conditions: Conditions, modes: list[Mode], window: int) -> Trained:
        world = _world(conditions, "tuneline", window * (len(modes) + 1))
        with mlflow_server(conditions.scratch / "store") as port:
            return train_tuneline(world, conditions.scratch / "store" / "mlflow.db", port, modes)

    def _plain(self, conditions: Conditions, mode: Mode, window: int, seconds: float) -> Trained:
        world, store = _world(conditions, f"plain-{mode}", 4 * window), conditions.scratch / f"store-{mode}"
        with mlflow_server(store) as port:
            return train_plainly(world, store / "mlflow.db", port, mode, seconds)


def _world(conditions: Conditions, name: str, steps: int) -> World:
    work = Work(steps=steps, train_rows=800, eval_rows=4, max_new_tokens=4, save_steps=_NO_SAVING, threads=1)
    return make_world(conditions.scratch / name, base_folder(conditions.scratch), work)


def _figure(mode: Mode, ours: tuple[float, ...], healthy: tuple[float, ...]) -> Figure:
    against = "the same training while the server is well"
    return Figure(
        name=f"step, server: {mode}", unit="ms", ours=ours, theirs=healthy, against=against, goal=Goal(at_most=1.01)
    )


def _kept(ours: Trained) -> Finding:
    whole = ours.tracked == ours.losses
    return Finding(
        name="tuneline",
        done="all of these outages in one training",
        saw=f"{ours.ending}; {ours.tracked} of {ours.losses} losses stand in MLflow once, with their value",
        verdict="right" if whole else "silent",
        broken=not whole,
    )


def _said(mode: Mode, trained: Trained, seconds: float) -> Finding:
    times = ", ".join(f"{milliseconds:.1f} ms a step ({its})" for its, milliseconds in trained.windows)
    saw = f"{trained.ending}; {trained.tracked} of {trained.losses} losses in MLflow; {times or 'no step times left'}"
    whole = trained.tracked == trained.losses and trained.ending == "exit 0, MLflow says FINISHED"
    failed: Verdict = "hangs" if trained.ending.startswith("still") else "loud"
    bad: Verdict = "silent" if trained.ending.startswith("exit 0") else failed
    done = f"the server is away for {seconds:.0f} s ({mode})"
    return Finding(name="script", done=done, saw=saw, verdict="right" if whole else bad)
