"""An experiment that goes on from the run of an earlier one, as a user starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.flows.worlds import cells_of, client, parents_of, runs_of, tuneline, write_experiment

pytestmark = pytest.mark.timeout(1500)

LORA = {"kind": "lora", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "learning_rate": 1e-2}
TRAINING = {"max_steps": 6, "per_device_train_batch_size": 4, "save_steps": 6, "lr_scheduler_type": "constant"}


@pytest.fixture(scope="module")
def world(finished: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Run]]:
    """A copy of the folder in which the toy experiment ran, and the runs of its cells."""
    folder = tmp_path_factory.mktemp("going-on")
    shutil.copytree(finished[0], folder, dirs_exist_ok=True)
    runs = runs_of(client(folder))
    return folder, cells_of(runs, parents_of(runs)[0])


def losses(folder: Path, run: Run) -> list[float]:
    """Of every step."""
    return [point.value for point in client(folder).get_metric_history(run.info.run_id, "train/loss")]


def test_training_goes_on_where_the_earlier_run_ended_and_says_so_everywhere(
    world: tuple[Path, dict[str, Run]],
) -> None:
    folder, earlier = world
    run_id = earlier["lora"].info.run_id
    methods = [{**LORA, "name": "on", "init_from": run_id}]
    methods.append({**LORA, "name": "on full", "init_from": earlier["full"].info.run_id})
    write_experiment(folder, name="on", methods=methods, training=TRAINING, registry={"model": "on"})
    done = tuneline(folder, "run", "toy.yaml")
    assert done.returncode == 0, done.stderr
    runs = runs_of(client(folder), "on")
    cells = cells_of(runs, parents_of(runs)[-1])
    first = losses(folder, cells["on"])[0]
    untuned, *_, last = losses(folder, earlier["lora"])
    assert abs(first - last) < abs(first - untuned) and first < untuned
    assert losses(folder, cells["on full"])[0] < untuned
    tags = cells["on"].data.tags
    assert tags["tuneline.source.init_from.run_id"] == run_id and len(tags["tuneline.source.init_from.sha256"]) == 64
    assert (
        cells["on full"].data.tags["tuneline.base_digest"]
        == (cells["on full"].data.tags["tuneline.source.init_from.sha256"])
    )
    assert "tuneline.source.init_from" not in earlier["lora"].data.tags
    report = json.loads((folder / "runs/reports/on/comparison/comparison.json").read_text())
    assert {row["label"]: row["note"].partition(" (")[0] for row in report["rows"]}["on"] == f"init_from run {run_id}"


def test_a_run_that_is_not_there_ends_it_before_anything_trains(world: tuple[Path, dict[str, Run]]) -> None:
    folder, _ = world
    before = sorted((folder / "runs/artifacts/train").iterdir())
    write_experiment(folder, name="lost", methods=[{**LORA, "init_from": "0" * 32}])
    done = tuneline(folder, "run", "toy.yaml")
    assert done.returncode == 10
    assert done.stderr.startswith("tuneline: methods[lora].init_from: MLflow knows no run 0000")
    assert len(done.stderr.splitlines()) == 1
    assert sorted((folder / "runs/artifacts/train").iterdir()) == before
