"""Where everything lies."""

from __future__ import annotations

from pathlib import Path

from tasks.workspace import Workspace


def test_everything_lies_below_the_runs_folder_in_folders_of_its_own(tmp_path: Path) -> None:
    here = Workspace(runs=tmp_path)
    folders = [here.store.root, here.work, here.spool, here.mlflow_artifacts, here.prefect, here.report("a")]

    assert all(folder.is_relative_to(tmp_path) for folder in folders)
    assert not any(one != other and one.is_relative_to(other) for one in folders for other in folders)
