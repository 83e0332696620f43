"""Kill, look, start again: until a pipeline comes to its end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.findings import Finding, Verdict
from benchmarks.soak.pipeline import Pipeline, Record
from benchmarks.soak.victims import alive, choose
from tasks.foundation.values import Value


class Plan(Value):
    """How a chain is made."""

    pause: float
    """Mean seconds between two kills, which know nothing of each other (a Poisson process): any moment is as likely."""
    kills: int
    """At most so many in this chain."""
    silence: float
    """Seconds in which every process must be gone when the command has ended."""
    interval: int
    """Steps between checkpoints: no more may be lost."""


class Strike(Value):
    """One SIGKILL."""

    at: float
    """Seconds since the start of the command, or since the strike before."""
    role: str


class Attempt(Value):
    """The command from its start to its end, which may have been struck more than once: it mends what it can."""

    strikes: tuple[Strike, ...]
    code: int | None
    """How it ended; None: it still ran after the patience of a quarter of an hour."""
    silence: float | None
    """Seconds from its end until its last process was gone; None: some were still alive."""
    lost_steps: int = 0

    @property
    def name(self) -> str:
        """`agent at 3.1 s, rank 0 at 2 s`."""
        return ", ".join(f"{strike.role} at {strike.at:.1f} s" for strike in self.strikes) or "nothing"


class Chain(Value):
    """A pipeline that was killed again and again, and what it left."""

    ranks: int
    attempts: tuple[Attempt, ...]
    problems: tuple[str, ...]

    @property
    def kills(self) -> int:
        """In all attempts."""
        return sum(len(attempt.strikes) for attempt in self.attempts)

    def finding(self, name: str, seed: int) -> Finding:
        """One line of the table."""
        slowest = max(attempt.silence or 0.0 for attempt in self.attempts)
        lost = max(attempt.lost_steps for attempt in self.attempts)
        saw = f"the same bytes, series and scores; silent after {slowest:.1f} s at most, {lost} steps lost at most"
        verdict: Verdict = "right"
        if self.problems:
            saw = "; ".join([*self.problems, f"again with --seed {seed}"])
            verdict = "leftovers" if "alive" in saw else "hangs" if "still ran" in saw else "silent"
        done = f"{self.ranks} rank(s); SIGKILL to " + " | ".join(attempt.name for attempt in self.attempts)
        return Finding(name=name, done=done, saw=saw, verdict=verdict, broken=bool(self.problems))


def run_chain(pipeline: Pipeline, plan: Plan, expected: Record, dice: random.Random) -> Chain:
    """Start the same command until it ends well, and strike it meanwhile as often as planned.

    Then nothing may differ from the undisturbed pipeline.
    """
    attempts: list[Attempt] = []
    try:
        while not attempts or (attempts[-1].strikes and attempts[-1].code not in (0, None)):
            left = plan.kills - sum(len(attempt.strikes) for attempt in attempts)
            attempts.append(one_attempt(pipeline, plan, dice, left))
        problems = [*problems_of(attempts, plan), *differences(pipeline, expected)]
        return Chain(ranks=pipeline.ranks, attempts=tuple(attempts), problems=tuple(problems))
    finally:
        pipeline.end()


def one_attempt(pipeline: Pipeline, plan: Plan, dice: random.Random, kills: int) -> Attempt:
    """Start the command, strike at most so many times at random moments, and see it end."""
    strikes: list[Strike] = []
    since = pipeline.start()
    while len(strikes) < kills:
        moment = dice.expovariate(1 / plan.pause)
        if pipeline.wait(until=since + moment) is not None:
            break
        victim = choose(dice, alive(pipeline.mark))
        if victim:
            with suppress(ProcessLookupError):
                os.kill(victim[0], signal.SIGKILL)
            strikes.append(Strike(at=round(moment, 2), role=victim[1]))
        since = time.monotonic()
    code = pipeline.wait()
    silence = pipeline.seconds_to_silence(plan.silence)
    lost = pipeline.lost_steps() if code else 0
    if silence is None:
        pipeline.end()
    return Attempt(strikes=tuple(strikes), code=code, silence=silence, lost_steps=lost)


def problems_of(attempts: Sequence[Attempt], plan: Plan) -> list[str]:
    """What must not follow from a kill."""
    found = []
    for number, one in enumerate(attempts, start=1):
        which = f"attempt {number} ({one.name})"
        if one.code is None:
            found.append(f"{which}: the command still ran a quarter of an hour later")
        elif one.silence is None:
            found.append(f"{which}: processes were alive {plan.silence:.0f} s after its end")
        if one.lost_steps > plan.interval:
            found.append(f"{which}: {one.lost_steps} steps lost")
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
