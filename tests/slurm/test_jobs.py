"""Real jobs in a real queue: how they wait, end, are cancelled, taken up again, and forgotten."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.foundation.errors import ConfigError, DependencyError, ResourceError
from tasks.launch.launchers import slurm
from tasks.launch.launchers._slurm_exits import write_exit
from tasks.launch.launchers._slurm_gang import SlurmGang
from tests.launch.worlds import alive, pids_of, said, wait_until
from tests.slurm.cluster import PlainCluster
from tests.slurm.worlds import ended, job_on, launcher

pytestmark = pytest.mark.system


@pytest.fixture
def holder(cluster: PlainCluster) -> Iterator[str]:
    """Somebody else's job, which holds all accelerators of both nodes."""
    number = cluster.command("sbatch", "--parsable", "--nodes=2", "--gres=gpu:2", "--wrap=sleep 600", "-o/dev/null")
    wait_until(lambda: cluster.job(number)["JobState"] == "RUNNING")
    yield number
    cluster.cancel_all()


def runs(gang: SlurmGang) -> bool:
    assert gang.poll() is None
    return gang.status() == ""


def test_a_job_without_free_accelerators_says_why_it_waits_and_then_runs_with_its_own(
    holder: str, cluster: PlainCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("HUB_TOKEN", "canary")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1")  # of the job in which somebody runs the pipeline
    gang = launcher(gres="gpu:2").start(job_on(2, tmp_path, action="end"))
    wait_until(lambda: gang.poll() is None and gang.status() == "queued (Resources)")
    cluster.command("scancel", holder)

    assert ended(gang) == 0
    for rank in said(tmp_path, ranks=2):
        environment = rank["environment"]
        assert environment["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert "canary" not in str(environment) and "SLURM_MEM_PER_NODE" not in environment
        assert environment["WORLD_SIZE"] == "2"
    log = (tmp_path / "log.txt").read_text()
    assert "rank 0 of 2 speaks" in log and "rank 1 of 2 speaks" in log


def test_a_cancelled_job_leaves_the_queue_although_it_never_ran(
    holder: str, cluster: PlainCluster, tmp_path: Path
) -> None:
    gang = launcher(gres="gpu:1").start(job_on(2, tmp_path, action="end"))
    gang.cancel(60)

    assert gang.poll() == 143
    assert cluster.jobs() == [holder]
    assert not (tmp_path / "here0").exists()


def test_a_cancel_lets_every_rank_save_and_leaves_no_process(cluster: PlainCluster, tmp_path: Path) -> None:
    gang = launcher().start(job_on(2, tmp_path, action="sleep", starts_a_process=True))
    pids = pids_of(tmp_path, ranks=2)
    (tmp_path / "go on").touch()
    gang.cancel(60)

    assert gang.poll() == 143
    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    assert alive(pids) == [] and cluster.jobs() == []
    wait_until(lambda: cluster.held() == [])


def test_ranks_that_do_not_listen_are_killed(cluster: PlainCluster, tmp_path: Path) -> None:
    gang = launcher().start(job_on(2, tmp_path, action="ignore SIGTERM", starts_a_process=True))
    pids = pids_of(tmp_path, ranks=2)
    gang.cancel(0.5)

    assert gang.poll() == 143
    assert alive(pids) == [] and cluster.jobs() == []


@pytest.mark.parametrize(
    ("asked", "code"),
    [({"action": "fail", "code": 11}, 11), ({"action": "die"}, 128 + signal.SIGKILL)],
    ids=["its exit code", "the signal that killed it"],
)
def test_the_rank_that_fails_gives_the_exit_code_whatever_the_other_node_ends_with(
    cluster: PlainCluster, tmp_path: Path, asked: dict[str, Any], code: int
) -> None:
    gang = launcher().start(job_on(2, tmp_path, rank=1, **asked))
    said(tmp_path, ranks=2)
    (tmp_path / "go on").touch()

    assert ended(gang) == code


def test_while_the_controller_is_away_nobody_knows_and_a_job_that_ends_well_meanwhile_has_ended_well(
    cluster: PlainCluster, tmp_path: Path
) -> None:
    gang = launcher(nodes=1).start(job_on(1, tmp_path / "job", action="fail", code=0))
    said(tmp_path / "job")
    wait_until(lambda: runs(gang))
    cluster.stop_daemon("slurmctld")
    wait_until(
        lambda: gang.poll() is None and gang.status().startswith("unknown: the controller does not answer since")
    )
    with pytest.raises(DependencyError, match="does not answer"):
        launcher(nodes=1).start(job_on(1, tmp_path / "other", action="end"))
    (tmp_path / "job" / "go on").touch()
    wait_until(lambda: written(tmp_path / "job"))
    assert gang.poll() is None
    cluster.start_controller(clean=False)

    assert ended(gang) == 0


def written(folder: Path) -> bool:
    return any("node" not in path.name for path in folder.glob("exitcode.*"))


def test_a_job_that_slurm_forgot_is_what_it_recorded_itself_and_never_a_success_without_that(
    cluster: PlainCluster, tmp_path: Path
) -> None:
    assert SlurmGang("999999", tmp_path, 1).poll() == 32
    write_exit(tmp_path, "999999", 0, 143)
    write_exit(tmp_path, "999999", 1, 0)
    assert SlurmGang("999999", tmp_path, 1).poll() == 0


def test_a_job_that_a_busy_controller_took_without_answering_is_not_lost(
    holder: str, cluster: PlainCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("sbatch")
    late = tmp_path / "bin" / "sbatch"
    late.parent.mkdir()
    said = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    late.write_text(f'#!/bin/sh\n{real} "$@" >/dev/null && echo "{said}" >&2\nexit 1\n')
    late.chmod(0o755)
    monkeypatch.setenv("PATH", f"{late.parent}:{os.environ['PATH']}")
    gang = launcher(gres="gpu:1").start(job_on(2, tmp_path / "job", action="end"))

    assert sorted(cluster.jobs()) == sorted([holder, gang.job])
    late.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 1\n')
    monkeypatch.setattr(slurm, "_LATE_SECONDS", 0.1)
    with pytest.raises(DependencyError, match=r"Socket timed out .* it takes up the job, should `squeue"):
        launcher(gres="gpu:1").start(job_on(2, tmp_path / "other", action="end"))


def test_cores_by_gpu_are_cores_enough(cluster: PlainCluster, tmp_path: Path) -> None:
    options = {"gpus-per-node": 1, "cpus-per-gpu": 2, "exclusive": True}
    gang = launcher(sbatch=options).start(job_on(2, tmp_path, action="end"))
    assert ended(gang) == 0


@pytest.mark.parametrize(
    ("settings", "cause", "where"),
    [
        ({"partition": "no-such"}, ConfigError, "distributed.partition"),
        ({"gres": "gpu:9"}, ResourceError, "distributed"),
        ({"gres": "tpu:1"}, ResourceError, "distributed.gres"),
        ({"nodes": 3}, ResourceError, "distributed"),
        ({"time": "9-0"}, ResourceError, "distributed.time"),
        ({"sbatch": {"no-such-option": True}}, ConfigError, "distributed.sbatch"),
    ],
    ids=str,
)
def test_what_slurm_refuses_is_one_line_that_names_the_key(
    cluster: PlainCluster, tmp_path: Path, settings: dict[str, Any], cause: type[Exception], where: str
) -> None:
    with pytest.raises(cause) as refused:
        launcher(**settings).start(job_on(2, tmp_path, action="end"))
    assert str(refused.value).startswith(f"{where}: Slurm refuses the job: ")
    assert "\n" not in str(refused.value)
    assert cluster.jobs() == []


def test_a_job_whose_pipeline_died_is_taken_up_and_another_one_of_the_same_folder_is_ended_first(
    holder: str, cluster: PlainCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = launcher(gres="gpu:1")
    job = job_on(2, tmp_path, action="end")
    first = asked.start(job)
    with monkeypatch.context() as own:
        own.setenv("SQUEUE_STATES", "COMPLETED")  # what a user likes to see of the queue
        assert asked.is_running(job)
    assert asked.start(job).job == first.job

    changed = job_on(2, tmp_path, action="sleep")
    assert not asked.is_running(changed)
    second = asked.start(changed)
    assert second.job != first.job
    assert first.poll() == 143
    assert sorted(cluster.jobs()) == sorted([holder, second.job])


def test_a_dead_slurmd_costs_a_requeue(cluster: PlainCluster, tmp_path: Path) -> None:
    gang = launcher().start(job_on(2, tmp_path, action="fail", code=0))
    first = pids_of(tmp_path, ranks=2)
    wait_until(lambda: runs(gang))
    for rank in range(2):
        (tmp_path / f"here{rank}").unlink()
    cluster.kill_node(cluster.nodes[1])
    wait_until(lambda: gang.poll() is None and gang.status().startswith("queued"))
    assert "restart 1" in gang.status()
    cluster.start_node(cluster.nodes[1])

    second = said(tmp_path, ranks=2)
    assert {rank["environment"]["SLURM_RESTART_COUNT"] for rank in second} == {"1"}
    assert {rank["environment"]["SLURM_STEP_ID"] for rank in second} == {"1"}  # signals to the old step miss it
    assert alive(first) == []
    gang.cancel(0.5)
    assert cluster.jobs() == []


def test_slurms_own_warning_before_the_time_limit_has_the_ranks_save_and_the_job_go_on_later(
    cluster: PlainCluster, tmp_path: Path
) -> None:
    gang = launcher(nodes=1, time="1").start(job_on(1, tmp_path, action="sleep"))
    said(tmp_path)
    (tmp_path / "go on").touch()
    wait_until(lambda: gang.poll() is None and "restart 1" in gang.status())

    assert (tmp_path / "saved0").exists()
    gang.cancel(1)
    assert gang.poll() == 143 and cluster.jobs() == []


def test_a_more_important_job_moves_it_aside_after_it_has_saved_and_it_goes_on_later(
    cluster: PlainCluster, tmp_path: Path
) -> None:
    gang = launcher(partition="main").start(job_on(2, tmp_path, action="sleep"))
    said(tmp_path, ranks=2)
    (tmp_path / "go on").touch()
    urgent = ("--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 600", "-o/dev/null")
    number = cluster.command("sbatch", "--parsable", *urgent)
    wait_until(lambda: cluster.job(number)["JobState"] == "RUNNING")
    wait_until(lambda: gang.poll() is None and "restart 1" in gang.status())

    assert (tmp_path / "saved0").exists() and (tmp_path / "saved1").exists()
    gang.cancel(1)
    assert gang.poll() == 143 and cluster.jobs() == [number]


def test_a_job_that_may_not_go_on_any_more_ends(cluster: PlainCluster, tmp_path: Path) -> None:
    gang = launcher(nodes=1, max_requeues=0).start(job_on(1, tmp_path, action="sleep"))
    said(tmp_path)
    (tmp_path / "go on").touch()
    cluster.command("scancel", "--batch", "--signal=USR1", gang.job)

    assert ended(gang) == 143
    assert "in the queue 1 times already" in (tmp_path / "log.txt").read_text()
