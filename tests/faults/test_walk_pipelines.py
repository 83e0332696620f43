"""The whole pipeline with a fault at every site: `tuneline run` dies, hangs or fails, and the same command goes on.

The faults form chains: each start goes on from what the last fault left, and carries the next one; the last start
carries none, and must end as if nothing had ever happened. The cases of a chain therefore depend on their order.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.foundation.faults import ONCE, SITES, VARIABLE
from tests.faults.invariants import SECRETS, check_end, check_standing
from tests.flows.worlds import started, tuneline, write_experiment, write_world
from tests.launch.worlds import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), pytest.mark.usefixtures("prefect_server")]

EXPERIMENT = {
    "methods": [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}],
    "training": {
        "max_steps": 80,
        "per_device_train_batch_size": 4,
        "save_steps": 2,
        "eval_steps": 4,
        "save_total_limit": 2,
    },
    "distributed": {"max_restarts": 0, "parallel_cells": 1},
}
QUICK_LOADING = "distributed.stall_seconds.loading=15"
QUICK_STEPS = [f"distributed.stall_seconds.{phase}=30" for phase in ("training", "evaluating", "saving", "finishing")]


class Fault(NamedTuple):
    """What one start carries, and how it ends."""

    text: str
    codes: frozenset[int]
    overrides: tuple[str, ...] = ()


def kills() -> list[Fault]:
    """SIGKILL at every site, in the order of a run."""
    return [Fault(f"{site}:kill", deadly(site)) for site in (*before_training(), *training(), *after_training())]


def before_training() -> list[str]:
    store = [f"artifact.{site}" for site in ("build:1", "file:1", "manifest:1", "rename:1", "done:1")]
    tokens = ["tokenize.batch:2", "tokenize.write:1", "tokenize.write:2", "artifact.rename:1", "artifact.done:1"]
    prepare = [store[0], "prepare.write:1", "prepare.write:2", "prepare.write:3", *store[1:]]
    return [*prepare, "track.journal:1", *tokens, "launch.start:1", "launch.started:1"]


def training() -> list[str]:
    once = ("train.load", "train.finish", "train.save", "train.result")
    sites = [site for site in SITES if site.startswith(("train.", "checkpoint."))]
    return [*(f"{site}:{1 if site in once else 2}" for site in sites), "artifact.rename:1", "artifact.done:1"]


def after_training() -> list[str]:
    evaluate = ["evaluate.batch:1", "evaluate.write:1", "evaluate.write:2", "artifact.rename:1"]
    register = [f"register.{site}:1" for site in ("package", "upload", "version", "alias", "done")]
    sending = ["track.send:2", "track.commit:2"]  # by a thread of its own, so when everything else is there already
    return ["merge.shard:1", "merge.prove:1", "artifact.rename:1", *evaluate, *register, "artifact.rename:1", *sending]


def deadly(site: str) -> frozenset[int]:
    """Exit codes of `tuneline run` after a SIGKILL: its own, or what it says of a child's or of a rank's death."""
    noun = site.partition(".")[0]
    if noun in ("track", "artifact", "launch"):
        return frozenset({-signal.SIGKILL})
    return frozenset({20, 32}) if noun in ("train", "checkpoint") else frozenset({20})


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


def new_world(folder: Path) -> Path:
    write_world(folder)
    write_experiment(folder, **EXPERIMENT)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    folder = new_world(tmp_path_factory.mktemp("undisturbed"))
    done = tuneline(folder, "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_world(tmp_path_factory.mktemp("killed"))


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_world(tmp_path_factory.mktemp("hurt"))


@pytest.mark.parametrize("fault", kills(), ids=lambda fault: fault.text)
def test_a_kill_leaves_nobody_alive_and_nothing_half_made_that_looks_whole(killed: Path, fault: Fault) -> None:
    run_into(killed, fault)


def test_after_a_kill_at_every_site_the_pipeline_ends_as_if_none_had_been(killed: Path, undisturbed: Path) -> None:
    done = tuneline(killed, "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    check_end(killed, undisturbed)


@pytest.mark.parametrize("fault", others(), ids=lambda fault: fault.text)
def test_any_other_fault_ends_with_its_cause_and_leaves_the_same(hurt: Path, fault: Fault) -> None:
    run_into(hurt, fault)


def test_after_every_other_fault_the_pipeline_ends_as_if_none_had_been(hurt: Path, undisturbed: Path) -> None:
    done = tuneline(hurt, "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    check_end(hurt, undisturbed)


def run_into(folder: Path, fault: Fault) -> None:
    """One start that meets the fault, and what must hold afterwards."""
    mark = folder.with_name(f"{folder.name}-marks") / fault.text.replace(":", "-")
    mark.parent.mkdir(exist_ok=True)
    mark.unlink(missing_ok=True)
    asked = {VARIABLE: fault.text, ONCE: str(mark)}
    done = tuneline(folder, "run", "toy.yaml", *fault.overrides, **SECRETS, **asked)
    assert mark.exists(), f"the site was not passed: {done.returncode} {done.stdout} {done.stderr}"
    assert done.returncode in fault.codes, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    check_standing(folder)


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
