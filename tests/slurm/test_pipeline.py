"""A whole pipeline whose cells train in a queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from tests.flows.worlds import kill, started, wait_for_step, weights_of, write_experiment, write_world
from tests.launch.worlds import wait_until
from tests.slurm.cluster import PlainCluster

pytestmark = pytest.mark.system


def jobs_in(folder: Path, cluster: PlainCluster) -> list[str]:
    """Ids of all jobs, also of those that are over, whose log lies in a folder."""
    lines = cluster.command("scontrol", "show", "job", "-o").splitlines()
    return [line.split()[0].removeprefix("JobId=") for line in lines if f"StdOut={folder}/" in line]


def is_watched(folder: Path) -> bool:
    """Whether a pipeline has begun with the cell that trains."""
    [lock] = (folder / "runs" / "work").glob("*/lock")
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def test_a_killed_pipeline_goes_on_with_the_job_that_it_left_behind(
    cluster: PlainCluster, prefect_server: str, tmp_path: Path
) -> None:
    write_world(tmp_path)
    write_experiment(
        tmp_path,
        methods=[{"kind": "none"}, {"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-3}],
        training={"max_steps": 1000, "per_device_train_batch_size": 4, "save_steps": 500},
        distributed={"launcher": "slurm", "nodes": 2, "accelerator": "cpu"},
    )
    with started(tmp_path, "run", "toy.yaml") as process:
        wait_for_step(tmp_path, 5, process)
        [job] = jobs_in(tmp_path, cluster)
        cluster.command("scontrol", "suspend", job)  # it must not be done before the next one looks for it
        kill(process)
    with started(tmp_path, "run", "toy.yaml") as process:
        wait_until(lambda: process.poll() is not None or is_watched(tmp_path), patience_seconds=400)
        cluster.command("scontrol", "resume", job)
        output, errors = process.communicate()

    assert process.returncode == 0, output + errors
    assert jobs_in(tmp_path, cluster) == [job]
    assert weights_of(tmp_path).keys() == {"lora"}
    assert cluster.jobs() == []
