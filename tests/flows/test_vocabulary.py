"""An experiment with an extended vocabulary, as a user runs it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.flows.worlds import METHODS, cells_of, client, parents_of, runs_of, tuneline, write_experiment, write_world
from tests.vocabulary.worlds import write_base


@pytest.mark.system
def test_cells_run_on_the_extended_base_and_the_second_run_adopts_it(tmp_path: Path) -> None:
    write_world(tmp_path)
    shutil.rmtree(tmp_path / "model")
    write_base(tmp_path / "model")
    model = {"name_or_path": "model", "extend_vocabulary": {"train": {"size": 8}, "steps": 4}}
    data = {"train": "train.csv", "eval": "dev.csv", "max_seq_length": 96}
    write_experiment(tmp_path, model=model, data=data, methods=[METHODS[0], METHODS[2]])
    first, second = tuneline(tmp_path, "run", "toy.yaml"), tuneline(tmp_path, "run", "toy.yaml")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "cached, verified and not run again: all cells" in second.stdout
    assert len([path for path in (tmp_path / "runs" / "artifacts" / "vocabulary").glob("*") if path.is_dir()]) == 1
    runs = runs_of(client(tmp_path))
    cells = cells_of(runs, parents_of(runs)[0])
    assert set(cells) == {"none", "lora"}
    for cell in cells.values():
        assert cell.data.metrics["vocabulary/new_tokens"] == 8
        assert cell.data.metrics["vocabulary/loss_trained"] < cell.data.metrics["vocabulary/loss_mean_start"]
        assert cell.data.params["model.extend_vocabulary.train.size"] == "8"
        assert cell.data.tags["tuneline.extended_from"] != cell.data.tags["tuneline.base_digest"]
