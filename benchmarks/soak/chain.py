"""Kill, look, start again: until a pipeline comes to its end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.findings import Finding, Verdict
from benchmarks.soak.pipeline import Pipeline, Record
from benchmarks.soak.victims import alive, choose
from tasks.foundation.values import Value


class Plan(Value):
    """How a chain is made."""

    length: float
    """Seconds that the undisturbed pipeline takes: kills come at any moment of it."""
    kills: int
    """At most so many in this chain."""
    silence: float
    """Seconds in which every process must be gone when the command has ended."""
    interval: int
    """Steps between checkpoints: no more may be lost."""


class Kill(Value):
    """One of them."""

    at: float
    """Seconds since the start of the command."""
    role: str
    code: int | None
    """How the command ended then; None: it still ran after the patience of a quarter of an hour."""
    silence: float | None
    """Seconds until the last process was gone; None: some were still alive."""
    lost_steps: int


class Chain(Value):
    """A pipeline that was killed again and again, and what it left."""

    ranks: int
    kills: tuple[Kill, ...]
    problems: tuple[str, ...]

    def finding(self, name: str, seed: int) -> Finding:
        """One line of the table."""
        where = ", ".join(f"{kill.role} at {kill.at:.1f} s" for kill in self.kills) or "nobody"
        slowest = max((kill.silence or 0.0 for kill in self.kills), default=0.0)
        lost = max((kill.lost_steps for kill in self.kills), default=0)
        saw = f"the same bytes, series and scores; silent after {slowest:.1f} s at most, {lost} steps lost at most"
        verdict: Verdict = "right"
        if self.problems:
            saw = "; ".join([*self.problems, f"again with --seed {seed}"])
            verdict = "leftovers" if "alive" in saw else "hangs" if "still ran" in saw else "silent"
        done = f"{self.ranks} rank(s); SIGKILL to {where}"
        return Finding(name=name, done=done, saw=saw, verdict=verdict, broken=bool(self.problems))


def run_chain(pipeline: Pipeline, plan: Plan, expected: Record, dice: random.Random) -> Chain:
    """Kill as often as planned, each time starting the same command again; an attempt that ends well is the last one.

    Then nothing may differ from the undisturbed pipeline.
    """
    kills: list[Kill] = []
    try:
        while len(kills) < plan.kills and (kill := one_kill(pipeline, plan, dice)):
            kills.append(kill)
            if kill.code in (0, None):
                break
        if pipeline.code() != 0:
            pipeline.start()
            pipeline.wait()
        problems = [*problems_of(kills, plan), *differences(pipeline, expected)]
        return Chain(ranks=pipeline.ranks, kills=tuple(kills), problems=tuple(problems))
    finally:
        pipeline.end()


def one_kill(pipeline: Pipeline, plan: Plan, dice: random.Random) -> Kill | None:
    """Start the command and kill one of its processes at some moment; None where it had ended well before."""
    started = pipeline.start()
    moment = dice.uniform(0, plan.length)
    if pipeline.wait(until=started + moment) == 0:
        return None
    victim = choose(dice, alive(pipeline.mark)) if pipeline.code() is None else None
    if victim:
        with suppress(ProcessLookupError):
            os.kill(victim[0], signal.SIGKILL)
    code = pipeline.wait()
    silence = pipeline.seconds_to_silence(plan.silence)
    lost = pipeline.lost_steps() if code else 0
    pipeline.end()
    role = victim[1] if victim else "nobody"
    return Kill(at=round(moment, 2), role=role, code=code, silence=silence, lost_steps=lost)


def problems_of(kills: Sequence[Kill], plan: Plan) -> list[str]:
    """What must not follow from a kill."""
    found = []
    for number, kill in enumerate(kills, start=1):
        which = f"kill {number} ({kill.role} at {kill.at} s)"
        if kill.role == "nobody":
            found.append(f"it ended with {kill.code} before anything was killed at {kill.at} s")
        if kill.code is None:
            found.append(f"{which}: the command still ran a quarter of an hour later")
        elif kill.silence is None:
            found.append(f"{which}: processes were alive {plan.silence:.0f} s after the end")
        if kill.lost_steps > plan.interval:
            found.append(f"{which}: {kill.lost_steps} steps lost")
    return found


def differences(pipeline: Pipeline, expected: Record) -> list[str]:
    """What the finished pipeline has not in common with an undisturbed one."""
    if (code := pipeline.code()) != 0:
        return [f"the last attempt ended with {code}: {pipeline.said()[-300:]}"]
    found, record = [], pipeline.record()
    if record.adapter != expected.adapter:
        found.append("another adapter")
    if record.losses != expected.losses:
        found.append("another loss series")
    if record.tracked != record.losses:
        found.append(f"MLflow has {len(record.tracked)} losses, training wrote {len(record.losses)}")
    if record.scores != expected.scores:
        found.append("other scores")
    if running := pipeline.running():
        found.append(f"{running} run(s) stay RUNNING in MLflow")
    return found
