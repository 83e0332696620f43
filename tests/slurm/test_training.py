"""Cells that really train on two nodes, and what becomes of them when nodes, time or patience run out."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import CancelledRunError, HangError
from tasks.models.values import BaseModel
from tasks.training.checkpoints import Checkpoints
from tasks.training.settings import TrainingSettings
from tasks.training.values import TrainRequest, TrainResult
from tests.launch.worlds import wait_until
from tests.slurm.cluster import PlainCluster
from tests.slurm.worlds import Training, launcher, on_two_nodes
from tests.training.ranks import trained_by_ranks
from tests.training.worlds import LORA, QUICK, loss_series, request_in, toy_cell

pytestmark = pytest.mark.system

LONG = TrainingSettings.model_validate(QUICK.model_dump() | {"max_steps": 600, "save_steps": 15})
"""Long enough for something to happen to it."""


@pytest.fixture(scope="module")
def local(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainRequest:
    """The same cell, trained without a break by two ranks on this machine."""
    request = request_in(tmp_path_factory.mktemp("local"), on_two_nodes(toy_cell(base, tokens, LORA)))
    trained_by_ranks(request)
    return request


def result_of(request: TrainRequest) -> TrainResult:
    return TrainResult.model_validate_json((request.output / "result.json").read_text(encoding="utf-8"))


def request_like(local: TrainRequest, folder: Path) -> TrainRequest:
    return request_in(folder, local.cell)


def test_two_machines_train_to_the_bytes_of_two_local_ranks(
    machines: PlainCluster, local: TrainRequest, tmp_path: Path
) -> None:
    request = request_like(local, tmp_path)
    training = Training(request, launcher())

    assert training.result() == result_of(local)
    assert loss_series(request) == loss_series(local)
    log = (request.work / "log.txt").read_text()
    assert "over fabric0" in log and "over fabric1" in log
    assert machines.jobs() == []


def test_two_nodes_of_one_machine_train_to_the_same_bytes(
    cluster: PlainCluster, local: TrainRequest, tmp_path: Path
) -> None:
    assert Training(request_like(local, tmp_path), launcher()).result() == result_of(local)


def test_a_node_that_goes_down_costs_a_requeue_and_no_byte(
    cluster: PlainCluster, local: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_FAULT", "train.step:7:hang")  # after the restart there are not so many steps left
    request = request_like(local, tmp_path)
    training = Training(request, launcher())
    training.wait_for_checkpoint(6)
    cluster.command("scontrol", "update", f"NodeName={cluster.nodes[1]}", "State=DOWN", "Reason=test")

    assert training.result() == result_of(local)
    assert loss_series(request) == loss_series(local)
    log = (request.work / "log.txt").read_text()
    assert "start 1, on" in log and "going on from step-00000006" in log


def test_a_machine_that_loses_its_power_costs_a_requeue_and_no_byte(
    machines: PlainCluster, local: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_FAULT", "train.step:7:hang")
    request = request_like(local, tmp_path)
    training = Training(request, launcher())
    training.wait_for_checkpoint(6)
    machines.kill_node(machines.nodes[1])
    job = machines.jobs()[0]
    wait_until(lambda: machines.job(job)["JobState"] == "PENDING")
    machines.start_node(machines.nodes[1])

    assert training.result() == result_of(local)
    assert loss_series(request) == loss_series(local)


def test_at_the_time_limit_it_saves_and_goes_on_and_a_cancel_leaves_a_checkpoint_and_nothing_else(
    cluster: PlainCluster, base: BaseModel, tokens: Artifact, tmp_path: Path
) -> None:
    daemons = sorted(cluster.pids())
    cell = on_two_nodes(toy_cell(base, tokens, LORA, LONG))
    request = request_in(tmp_path / "slurm", cell)
    training = Training(request, launcher())
    training.wait_for_checkpoint(15)
    cluster.command("scancel", "--batch", "--signal=USR1", cluster.jobs()[0])  # as --signal=B:USR1@… does
    training.wait_for_note("queued (BeginTime), restart 1")
    stopped = Checkpoints(request.work / "checkpoints", request.identity).newest()
    training.wait_for_checkpoint((stopped or 0) + 15)
    training.cancel()
    training.join()

    assert isinstance(training.error, CancelledRunError)
    assert cluster.jobs() == []
    wait_until(lambda: cluster.held() == [] and sorted(cluster.pids()) == daemons)
    newest = Checkpoints(request.work / "checkpoints", request.identity).newest()
    assert stopped is not None and newest is not None and newest > stopped
    whole = request_in(tmp_path / "whole", cell)
    trained_by_ranks(whole)
    trained_by_ranks(request)
    assert result_of(request) == result_of(whole)
    assert loss_series(request) == loss_series(whole)


def test_a_rank_that_hangs_on_another_node_is_found_with_the_stacks_of_all(
    cluster: PlainCluster, local: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_FAULT", "train.step:5:hang:1")
    request = request_like(local, tmp_path)
    training = Training(request, launcher(max_restarts=0, stall_seconds={"training": 20}))
    training.join()

    assert isinstance(training.error, HangError)
    assert "rank 1 on" in training.error.what and "go on from step 4" in training.error.fix
    log = (request.work / "log.txt").read_text()
    assert all(f"stacks of rank {rank}" in log for rank in range(2)) and "faults.py" in log
    assert cluster.jobs() == []
