"""The whole pipeline killed at every site: `tuneline run` dies, and the same command goes on."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tasks.foundation.faults import SITES
from tests.faults.invariants import SECRETS, check_end
from tests.faults.pipelines import CHAINS, WALK, Fault, chained, new_world, run_into, undisturbed_world
from tests.flows.worlds import tuneline

pytestmark = WALK


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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Path:
    return undisturbed_world(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_world(tmp_path_factory.mktemp("killed"))


@pytest.mark.parametrize("fault", chained(kills()))
def test_a_kill_leaves_nobody_alive_and_nothing_half_made_that_looks_whole(killed: Path, fault: Fault) -> None:
    run_into(killed, fault)


@pytest.mark.parametrize("chain", CHAINS)
def test_after_a_kill_at_every_site_the_pipeline_ends_as_if_none_had_been(
    killed: Path, undisturbed: Path, chain: str
) -> None:
    done = tuneline(killed, "run", "toy.yaml", **SECRETS)
    assert done.returncode == 0, done.stderr
    check_end(killed, undisturbed)
