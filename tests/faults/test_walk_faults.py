"""The whole pipeline with every other fault at sites of every noun: it fails or hangs, and the same command goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tasks.foundation.faults import ONCE, VARIABLE
from tests.faults.invariants import SECRETS, check_end, check_standing
from tests.faults.pipelines import CHAINS, WALK, Fault, chained, new_world, run_into, undisturbed_world
from tests.flows.worlds import started, tuneline
from tests.launch.worlds import wait_until

pytestmark = WALK

QUICK_LOADING = "distributed.stall_seconds.loading=15"
QUICK_STEPS = [f"distributed.stall_seconds.{phase}=30" for phase in ("training", "evaluating", "saving", "finishing")]


def others() -> list[Fault]:
    """The other actions at sites of every noun, in the order of a run.

    A `term` in a thread of the pipeline itself is the last of its step: while the main thread notices, that step may
    end well, and what is done is kept.
    """
    asked: dict[str, int] = {
        "artifact.build:1:error": 1,
        "artifact.file:1:enospc": 20,
        "prepare.write:2:error": 1,
        "prepare.write:2:term": 143,
        "prepare.write:2:enospc": 20,
        "prepare.write:2:hang": 31,
        "artifact.build:1:term": 143,
        "track.journal:1:enospc": 20,
        "track.journal:1:error": 1,
        "tokenize.write:1:enospc": 20,
        "tokenize.batch:1:hang": 31,
        "track.journal:1:term": 143,
        "launch.start:1:error": 1,
        "launch.started:1:term": 143,
        "train.load:1:error": 1,
        "train.batch:2:hang": 31,
        "train.step:2:term": 143,
        "train.logged:2:enospc": 20,
        "train.evaluate:2:hang": 31,
        "checkpoint.weights:1:enospc": 20,
        "checkpoint.optimizer:1:term": 143,
        "checkpoint.file:2:enospc": 20,
        "checkpoint.rng:1:hang": 31,
        "checkpoint.rename:1:error": 1,
        "train.save:1:enospc": 20,
        "train.result:1:hang": 31,
        "merge.shard:1:enospc": 20,
        "merge.prove:1:hang": 31,
        "evaluate.batch:1:hang": 31,
        "evaluate.write:1:term": 143,
        "evaluate.write:2:enospc": 20,
        "register.package:1:term": 143,
        "register.upload:1:hang": 31,
        "register.version:1:enospc": 20,
        "register.alias:1:error": 1,
    }
    return [Fault(text, frozenset({code}), impatient(text)) for text, code in asked.items()]


def impatient(text: str) -> tuple[str, ...]:
    """Short limits for what hangs, and only for the phase in which it does: a busy machine starts slowly."""
    if not text.endswith(":hang"):
        return ()
    return tuple(QUICK_STEPS) if text.startswith(("train.", "checkpoint.", "evaluate.")) else (QUICK_LOADING,)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    return undisturbed_world(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_world(tmp_path_factory.mktemp("hurt"))


@pytest.mark.parametrize("fault", chained(others()))
def test_any_other_fault_ends_with_its_cause_and_leaves_the_same(hurt: Path, fault: Fault) -> None:
    run_into(hurt, fault)


@pytest.mark.parametrize("chain", CHAINS)
def test_after_every_other_fault_the_pipeline_ends_as_if_none_had_been(
    hurt: Path, undisturbed: Path, chain: str
) -> None:
    done = tuneline(hurt, "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    check_end(hurt, undisturbed)


@pytest.mark.parametrize("fault", ["track.send:2:error", "track.send:2:enospc", "track.commit:2:error"])
def test_a_fault_on_the_way_to_mlflow_is_tried_again_and_costs_nothing(
    tmp_path: Path, undisturbed: Path, fault: str
) -> None:
    folder, mark = new_world(tmp_path / "world"), tmp_path / "mark"
    done = tuneline(folder, "run", "toy.yaml", **SECRETS, **{VARIABLE: fault, ONCE: str(mark)})
    assert (done.returncode, mark.exists()) == (0, True), done.stderr
    check_end(folder, undisturbed)


def test_a_pipeline_that_hangs_itself_can_be_cancelled_and_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    """Its own threads have no watch: whoever started it (a person, Prefect, a scheduler) ends it."""
    folder, mark = new_world(tmp_path / "world"), tmp_path / "mark"
    asked = {VARIABLE: "artifact.rename:2:hang", ONCE: str(mark)}
    with started(folder, "run", "toy.yaml", **SECRETS, **asked) as process:
        wait_until(mark.exists)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert (process.returncode, len(errors.splitlines())) == (143, 1), errors
    assert "in _hang" in next(folder.glob("runs/reports/*/log.txt")).read_text(), "where it hung"
    check_standing(folder)
    assert tuneline(folder, "run", "toy.yaml", **SECRETS).returncode == 0
    check_end(folder, undisturbed)
