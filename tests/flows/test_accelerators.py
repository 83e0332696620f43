"""Prefect's limit on accelerators: cells of all runs hold places there, and a limit that is missing stops a run."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow, task
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.accelerators import LIMIT_VARIABLE, accelerator_permit
from flows.orchestration import HOST, free_port, start_server, wait_for_server
from flows.reconcile import prefect_client
from tasks.foundation.errors import CancelledRunError, ResourceError
from tasks.launch.slots import Slots, current_slots, free_for_all, sharing
from tests.flows.worlds import tuneline, write_world


def limit_of(places: int) -> dict[str, str]:
    """An environment that names a new limit."""
    name = f"limit-{uuid.uuid4().hex[:8]}"
    with prefect_client() as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=places))
    return {LIMIT_VARIABLE: name}


@pytest.fixture
def server(prefect_server: str) -> Iterator[str]:
    with temporary_settings({PREFECT_API_URL: prefect_server}):
        yield prefect_server


def test_two_cells_never_work_at_a_time_where_the_limit_has_one_place(server: str) -> None:
    permit = accelerator_permit(limit_of(1), 1)
    worked: list[tuple[float, float]] = []
    said: list[str] = []
    both = threading.Barrier(2, timeout=120)

    @task
    def work() -> None:
        both.wait()
        with current_slots().hold(said.append):
            begun = time.monotonic()
            time.sleep(4)
            worked.append((begun, time.monotonic()))

    @flow
    def two_cells() -> None:
        with sharing(Slots(((), ()), 1, permit)):
            for future in [work.submit(), work.submit()]:
                future.result()

    two_cells()
    (_, first_end), (second_begin, _) = sorted(worked)
    assert first_end <= second_begin
    assert said and all("are taken" in line for line in said)


def test_a_cell_holds_as_many_places_as_it_has_ranks(server: str) -> None:
    environment = limit_of(3)
    permit = accelerator_permit(environment, 2)
    with Slots(((),), 2, permit).hold(), prefect_client() as client:
        limit = client.read_global_concurrency_limit_by_name(environment[LIMIT_VARIABLE])
        assert limit.active_slots == 2


def test_ranks_that_work_elsewhere_hold_none(server: str) -> None:
    assert accelerator_permit({LIMIT_VARIABLE: "missing"}, 0) is free_for_all
    assert accelerator_permit({}, 2) is free_for_all


def test_a_cell_that_is_larger_than_the_limit_is_refused_instead_of_waiting_for_ever(server: str) -> None:
    with pytest.raises(ResourceError, match=r"a cell has 2 ranks here, and the limit .* has 1 places"):
        accelerator_permit(limit_of(1), 2)


def test_a_limit_that_is_deleted_meanwhile_stops_the_run(server: str) -> None:
    environment = limit_of(1)
    permit = accelerator_permit(environment, 1)
    with prefect_client() as client:
        client.delete_global_concurrency_limit_by_name(environment[LIMIT_VARIABLE])
    with pytest.raises(ResourceError, match="has no limit"), Slots(((),), 1, permit).hold():
        pass


def test_who_waits_for_a_place_when_the_flow_ends_is_sent_away(server: str) -> None:
    permit = accelerator_permit(limit_of(1), 1)
    slots = Slots(((), ()), 1, permit)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            with slots.hold():
                pass
        except CancelledRunError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    with slots.hold():
        with sharing(slots):
            thread.start()
            thread.join(1)
        thread.join(60)
    assert len(caught) == 1


@pytest.mark.system
def test_a_cell_ends_well_although_the_server_went_away_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    url = f"http://{HOST}:{port}/api"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", url)
    own = start_server(port, tmp_path / "log")
    wait_for_server(own, print)
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        permit = accelerator_permit(limit_of(1), 1)
        with Slots(((),), 1, permit).hold():
            own.stop()


def test_a_missing_limit_stops_the_run_with_one_line_and_its_exit_code(tmp_path: Path, prefect_server: str) -> None:
    write_world(tmp_path)
    done = tuneline(tmp_path, "run", "toy.yaml", **{LIMIT_VARIABLE: "missing"})
    assert (done.returncode, len(done.stderr.splitlines())) == (20, 1), done.stderr
    assert "Prefect's server has no limit missing" in done.stderr and "setup-orchestration" in done.stderr
