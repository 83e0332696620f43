"""A whole pipeline whose cells train in a queue."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.worlds import kill, started, tuneline, wait_for_step, weights_of, write_experiment, write_world
from tests.slurm.cluster import PlainCluster

pytestmark = pytest.mark.system


def jobs_in(folder: Path, cluster: PlainCluster) -> list[str]:
    """Ids of all jobs, also of those that are over, whose log lies in a folder."""
    lines = cluster.command("scontrol", "show", "job", "-o").splitlines()
    return [line.split()[0] for line in lines if f"StdOut={folder}/" in line]


def test_a_killed_pipeline_goes_on_with_the_job_that_it_left_behind(
    cluster: PlainCluster, prefect_server: str, tmp_path: Path
) -> None:
    write_world(tmp_path)
    write_experiment(
        tmp_path,
        methods=[{"kind": "none"}, {"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-3}],
        training={"max_steps": 400, "per_device_train_batch_size": 4, "save_steps": 100},
        distributed={"launcher": "slurm", "nodes": 2, "accelerator": "cpu"},
    )
    with started(tmp_path, "run", "toy.yaml") as process:
        wait_for_step(tmp_path, 5, process)
        kill(process)
    left = jobs_in(tmp_path, cluster)
    done = tuneline(tmp_path, "run", "toy.yaml")

    assert done.returncode == 0, done.stdout + done.stderr
    assert jobs_in(tmp_path, cluster) == left and len(left) == 1
    assert weights_of(tmp_path).keys() == {"lora"}
    assert cluster.jobs() == []
