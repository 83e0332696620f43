"""Random kills over whole pipelines."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.base import Conditions
from benchmarks.soak.chain import Attempt, Chain, Plan, problems_of
from benchmarks.soak.pipeline import Pipeline
from benchmarks.soak.victims import choose, role_of
from benchmarks.suite.soak import run_chains
from benchmarks.world import World

PLAN = Plan(pause=10, kills=4, silence=5, interval=10)


@pytest.mark.system
@pytest.mark.timeout(3000)
def test_three_random_kills_of_random_processes_change_nothing(world: World, tmp_path: Path) -> None:
    conditions = Conditions(repeats=3, quick=True, scratch=tmp_path, seed=11)
    chains = run_chains(world, conditions, silence=120)
    assert [problem for chain in chains for problem in chain.problems] == []
    assert sum(chain.kills for chain in chains) == 3


def test_an_agent_is_not_taken_for_the_worker_that_its_command_line_names() -> None:
    python = "python"
    assert role_of([python, "-m", "tasks.launch.agent", "-m", "tasks.training.worker", "r.json"], {}) == "agent"
    assert role_of([python, "-u", "-m", "tasks.training.worker", "r.json"], {"RANK": "2"}) == "rank 2"
    assert role_of([python, "-m", "flows", "run", "a.yaml"], {}) == "pipeline"
    assert role_of([python, "-c", "from multiprocessing.resource_tracker import main;main(9)"], {}) == ""


def test_roles_are_drawn_not_processes_and_the_same_seed_draws_the_same() -> None:
    candidates = {10: "pipeline", 11: "rank 0", 12: "child", 13: "child", 14: "child", 15: ""}
    drawn = [choose(random.Random(seed), candidates) for seed in range(200)]
    assert drawn == [choose(random.Random(seed), candidates) for seed in range(200)]
    assert {one[1] for one in drawn if one} == {"pipeline", "rank 0", "child"}
    assert sum(one == (12, "child") for one in drawn) < 100
    assert choose(random.Random(0), {15: ""}) is None


def attempt(**changes: object) -> Attempt:
    strikes = [{"at": 3.0, "role": "agent"}]
    return Attempt.model_validate({"strikes": strikes, "code": 32, "silence": 0.4, "lost_steps": 7} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"silence": None}, "alive 5 s after"),
        ({"lost_steps": 11}, "11 steps lost"),
        ({"code": None}, "still ran"),
    ],
)
def test_a_broken_promise_is_said_with_the_kills_that_broke_it(changes: dict[str, object], said: str) -> None:
    assert problems_of([attempt()], PLAN) == []
    (problem,) = problems_of([attempt(), attempt(**changes)], PLAN)
    assert said in problem
    assert "attempt 2 (agent at 3.0 s)" in problem


def test_a_problem_names_the_seed_that_repeats_it_and_fails_the_command() -> None:
    finding = Chain(ranks=2, attempts=(attempt(),), problems=("another adapter",)).finding("01", seed=5)
    assert (finding.broken, finding.verdict) == (True, "silent")
    assert "--seed 5" in finding.saw
    assert not Chain(ranks=2, attempts=(attempt(),), problems=()).finding("01", seed=5).broken


def test_lost_steps_are_those_after_the_newest_whole_checkpoint(world: World) -> None:
    work = world.folder / "runs" / "work" / "abc"
    for step, whole in ((10, True), (20, True), (30, False)):
        folder = work / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        if whole:
            (folder / "manifest.json").touch()
    (work / "progress.json").write_text('{"step": 33, "total_steps": 60}', encoding="utf-8")
    pipeline = Pipeline(world, ranks=1)
    assert pipeline.lost_steps() == 13
    (world.folder / "runs" / "artifacts" / "train" / "abc").mkdir(parents=True)
    assert pipeline.lost_steps() == 0
