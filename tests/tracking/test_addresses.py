"""Where a run can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.tracking import RunRef, TrackingSettings, create_run, experiment_page, run_page, version_page
from tasks.tracking.cursor import Cursor, write_cursor
from tasks.tracking.memory import MemorySink
from tasks.tracking.uri import destination
from tests.tracking.test_shipper import shipping


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def sent(spool: Path, tracking: TrackingSettings) -> RunRef:
    """A run of experiment `e` that the server has."""
    with shipping(spool, MemorySink(), tracking) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        shipper.flush(120)
    return ref


def test_pages_of_a_server_have_addresses_without_its_password(spool: Path) -> None:
    server = TrackingSettings(uri="http://anna:s3cret@server:5000/")
    ref = sent(spool, server)

    assert run_page(server, ref) == "http://server:5000/#/experiments/id of e/runs/run0"
    assert experiment_page(server, ref) == "http://server:5000/#/experiments/id of e/runs"
    assert version_page(server, "my model", 3) == "http://server:5000/#/models/my%20model/versions/3"


def test_a_run_that_the_server_does_not_have_has_no_page(spool: Path) -> None:
    server = TrackingSettings(uri="http://server:5000")
    assert run_page(server, create_run(spool, name="a", experiment="e")) is None
    waiting = create_run(spool, name="b", experiment="e")
    write_cursor(waiting.journal, Cursor(destination=destination(server.uri)))
    assert run_page(server, waiting) is None
    elsewhere = sent(spool, TrackingSettings(uri="http://other:5000"))
    assert (run_page(server, elsewhere), experiment_page(server, elsewhere)) == (None, None)


def test_a_database_has_pages_only_where_somebody_serves_it(spool: Path) -> None:
    database = TrackingSettings(uri=f"sqlite:///{spool.parent}/a.db")
    ref = sent(spool, database)
    pages = (run_page(database, ref), experiment_page(database, ref), version_page(database, "m", 1))
    assert pages == (None, None, None)

    served = database.model_copy(update={"ui_url": "https://mlflow.example.com/"})
    assert run_page(served, ref) == "https://mlflow.example.com/#/experiments/id of e/runs/run0"


def test_where_people_look_cannot_hold_a_password() -> None:
    with pytest.raises(ValidationError, match="ui_url"):
        TrackingSettings(ui_url="http://anna:s3cret@server")


def test_a_run_ref_of_the_same_run_in_another_process_finds_its_run_id(spool: Path) -> None:
    with shipping(spool, MemorySink()) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        shipper.flush(120)

        assert shipper.run_id(RunRef.model_validate_json(ref.model_dump_json())) == "run0"
