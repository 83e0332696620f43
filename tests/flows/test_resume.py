"""From a gang that hangs under the real launcher to one of another size that goes on from its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.worlds import (
    cells_of,
    client,
    parents_of,
    processes_in,
    runs_of,
    tuneline,
    write_experiment,
    write_world,
)
from tests.launch.worlds import wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

LORA = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]
TWO_RANKS = {"ranks_per_node": 2, "max_restarts": 0, "stall_seconds": {"training": 30}}
ONE_RANK = ("distributed.ranks_per_node=1", "training.per_device_train_batch_size=4")


@pytest.fixture(scope="module")
def hung(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 1 hung in its ninth micro-step; eight steps were done, the last checkpoint is of step 8."""
    folder = tmp_path_factory.mktemp("hung")
    write_world(folder)
    training = {"max_steps": 12, "per_device_train_batch_size": 2, "save_steps": 4}
    write_experiment(folder, training=training, methods=LORA, distributed=TWO_RANKS)
    done = tuneline(folder, "run", "toy.yaml", TUNELINE_FAULT="train.step:9:hang:1")
    assert done.returncode == 31, done.stderr
    (folder / "stderr.txt").write_text(done.stderr, encoding="utf-8")
    return folder


def test_row_15_a_hang_under_torchrun_ends_with_31_the_stacks_of_all_ranks_and_no_process(hung: Path) -> None:
    said = (hung / "stderr.txt").read_text(encoding="utf-8")
    assert "no progress for" in said
    assert "rank 1" in said
    assert "go on from step 8" in said
    log = next((hung / "runs" / "work").glob("*/log.txt")).read_text(encoding="utf-8")
    assert log.count("--- stacks of rank") == 2
    assert "in _hang" in log
    wait_until(lambda: processes_in(hung) == [])


def test_row_44_another_number_of_ranks_is_refused_with_resume_and_goes_on_when_it_is_allowed(hung: Path) -> None:
    refused = tuneline(hung, "run", "toy.yaml", "--resume", *ONE_RANK)
    assert refused.returncode == 10, refused.stderr
    assert "ranks 2 -> 1" in refused.stderr
    assert "--allow world_size" in refused.stderr, refused.stderr
    done = tuneline(hung, "run", "toy.yaml", "--allow", "world_size", *ONE_RANK)
    assert done.returncode == 0, done.stderr
    runs = runs_of(client(hung))
    cell = cells_of(runs, parents_of(runs)[-1])["lora"]
    assert cell.data.tags["tuneline.resumed_from_world_size"] == "2"
    history = client(hung).get_metric_history(cell.info.run_id, "train/loss")
    assert [point.step for point in history] == list(range(1, 13))
