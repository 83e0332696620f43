"""MLflow's SQLite file, made whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock
from mlflow.tracking import MlflowClient

from tasks.artifacts import sync


def make_database(file: Path) -> None:
    """Have MLflow make its tables in a file beside, and put it in place.

    MLflow makes a new database by some fifty migrations, each of which SQLite commits in parts. Killed among them, it
    finds `table _alembic_tmp_… already exists` at every later start, and nothing is ever recorded again.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name(f".{file.name}.lock")):
        if file.exists():
            return
        made, staged = (file.with_name(f".{file.name}.{part}") for part in ("made", "staged"))
        _forget(made)
        MlflowClient(f"sqlite:///{made}").search_experiments(max_results=1)
        shutil.copyfile(made, staged)  # MLflow keeps the other one open
        sync(staged)
        staged.replace(file)
        sync(file.parent)
        _forget(made)


def _forget(made: Path) -> None:
    """With SQLite's journals beside it."""
    for path in made.parent.glob(f"{made.name}*"):
        path.unlink()
