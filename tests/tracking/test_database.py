"""A new MLflow database is whole or not there, whoever dies while it is being made."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tasks.tracking.database import make_database
from tests.tracking.kids import start

pytestmark = pytest.mark.xdist_group("mlflow")


def test_a_maker_that_is_killed_leaves_no_file_and_the_next_one_makes_it(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mlflow.db"
    process = start(make_database, file)
    while not tables_of(file.with_name(".mlflow.db.made")):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not file.exists()
    make_database(file)
    assert {"experiments", "runs", "registered_models"} <= tables_of(file)


def test_a_database_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    file.write_bytes(b"somebody's")
    make_database(file)
    assert file.read_bytes() == b"somebody's"
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def tables_of(file: Path) -> set[str]:
    if not file.exists():
        return set()
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
