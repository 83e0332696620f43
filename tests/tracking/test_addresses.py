"""Where a run can be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tracking import RunRef, TrackingSettings, create_run
from tasks.tracking.memory import MemorySink
from tests.tracking.test_shipper import shipping


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_pages_have_addresses_only_where_there_is_a_server(spool: Path) -> None:
    with shipping(spool, MemorySink()) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        assert shipper.run_url(ref) is None
        shipper.flush(120)

        assert shipper.run_url(ref) == "http://server:5000/#/experiments/id of e/runs/run0"
        assert shipper.experiment_url("e") == "http://server:5000/#/experiments/id of e"
        assert shipper.experiment_url("unknown") is None
    database = TrackingSettings(uri=f"sqlite:///{spool.parent}/a.db")
    with shipping(spool.parent / "other", MemorySink(), database) as shipper:
        ref = create_run(spool.parent / "other", name="a", experiment="e")
        shipper.flush(120)

        assert shipper.run_url(ref) is None
        assert shipper.run_id(ref) == "run0"


def test_a_run_ref_of_the_same_run_in_another_process_finds_its_run_id(spool: Path) -> None:
    with shipping(spool, MemorySink()) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        shipper.flush(120)

        assert shipper.run_id(RunRef.model_validate_json(ref.model_dump_json())) == "run0"
