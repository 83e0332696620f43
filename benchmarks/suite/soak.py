"""Random SIGKILLs of random processes over whole pipelines; after each, the same command again."""

from __future__ import annotations

import random
import shutil
import sys
import time
from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.figures import Figure, Goal
from benchmarks.findings import Finding
from benchmarks.soak.chain import Chain, Plan, run_chain
from benchmarks.soak.pipeline import Pipeline, Record
from benchmarks.world import Work, World, base_folder, make_world

_RANKS = (1, 2, 1, 3)
_SILENCE_SECONDS = 5.0
_KILLS_IN_A_CHAIN = 8
_KILLS_IN_A_LENGTH = 3
"""Kills in the time that an undisturbed pipeline takes: few escape, and every phase is reached."""


class Soak(Benchmark):
    """`--repeats` is the number of kills, `--seed` chooses the moments and the processes: the pipeline, the agent, any
    rank, children, warden, our Prefect server. Each pipeline is killed several times, and must then end with the
    adapter, the loss series and the scores of an undisturbed one."""

    name: ClassVar[str] = "soak"
    covers: ClassVar[str] = "soak"
    question: ClassVar[str] = "Does a pipeline that is killed at random end as if nothing had happened?"

    def measure(self, conditions: Conditions) -> tuple[Figure | Finding, ...]:
        work = Work(
            steps=conditions.size(120, 60),
            train_rows=300,
            eval_rows=8,
            max_new_tokens=8,
            save_steps=conditions.size(20, 10),
            threads=1,
        )
        world = make_world(conditions.scratch / "world", base_folder(conditions.scratch), work)
        chains = run_chains(world, conditions, _SILENCE_SECONDS)
        findings = [chain.finding(f"{at:02}", conditions.seed) for at, chain in enumerate(chains, start=1)]
        return (*findings, *_figures(chains, work))


def run_chains(world: World, conditions: Conditions, silence: float) -> list[Chain]:
    """One pipeline after another until the kills are spent; `silence`: seconds until nothing of one may be alive."""
    dice, left = random.Random(conditions.seed), conditions.repeats
    known: dict[int, tuple[Record, float]] = {}
    chains: list[Chain] = []
    while left > 0:
        ranks = _RANKS[len(chains) % len(_RANKS)]
        if ranks not in known:
            known[ranks] = undisturbed(world, ranks)
        expected, length = known[ranks]
        kills = min(left, _KILLS_IN_A_CHAIN)
        plan = Plan(pause=length / _KILLS_IN_A_LENGTH, kills=kills, silence=silence, interval=world.work.save_steps)
        pipeline = Pipeline(copied(world, f"{len(chains)}"), ranks)
        chains.append(run_chain(pipeline, plan, expected, dice))
        left -= chains[-1].kills
        _say(
            f"{conditions.repeats - left} of {conditions.repeats} kills",
            chains[-1].finding(str(len(chains)), conditions.seed),
        )
        if not chains[-1].problems:
            pipeline.forget()
    return chains


def _say(spent: str, finding: Finding) -> None:
    """It takes an hour: whoever waits, or has to break it off, sees how it stands."""
    sys.stderr.write(f"soak: {spent}, pipeline {finding.name}: {finding.done}: {finding.saw}\n")


def undisturbed(world: World, ranks: int) -> tuple[Record, float]:
    """What a pipeline leaves that nobody touches, and the seconds that it takes."""
    pipeline = Pipeline(copied(world, f"undisturbed-{ranks}"), ranks)
    try:
        started = pipeline.start()
        code = pipeline.wait()
        seconds = time.monotonic() - started
        if code != 0:
            raise RuntimeError(f"the undisturbed pipeline ended with {code}: {pipeline.said()}")
        return pipeline.record(), seconds
    finally:
        pipeline.end()


def copied(world: World, name: str) -> World:
    """The same rows in a folder of their own."""
    folder = world.folder.parent / name
    shutil.copytree(world.folder, folder)
    return world.model_copy(update={"folder": folder})


def _figures(chains: list[Chain], work: Work) -> tuple[Figure, ...]:
    attempts = [attempt for chain in chains for attempt in chain.attempts]
    silence = max(_SILENCE_SECONDS * 2 if one.silence is None else one.silence for one in attempts)
    lost = float(max(one.lost_steps for one in attempts))
    clean = sum(not chain.problems for chain in chains) / len(chains)
    return (
        Figure(name="kills", unit="", ours=(float(sum(chain.kills for chain in chains)),)),
        Figure(name="pipelines as undisturbed", unit="share", ours=(clean,), goal=Goal(at_least=1, of_value=True)),
        Figure(
            name="slowest end of all processes",
            unit="s",
            ours=(silence,),
            goal=Goal(at_most=_SILENCE_SECONDS, of_value=True),
        ),
        Figure(
            name="most steps lost by a kill",
            unit="steps",
            ours=(lost,),
            goal=Goal(at_most=float(work.save_steps), of_value=True),
        ),
    )
