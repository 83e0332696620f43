"""What a flow returned or raised stands, whether or not Prefect's server could be told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prefect import State, flow
from prefect.exceptions import TerminationSignal
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_CLIENT_RETRY_JITTER_FACTOR,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from flows import ending
from flows.ending import run_to_its_end
from flows.guarding import Terminated
from flows.orchestration import HOST, OwnServer, start_server, wait_for_server
from flows.outcome import FlowOutcome, ended
from tasks.comparison.values import Comparison
from tasks.foundation.errors import DataError, DependencyError
from tests.ports import free_port

TABLE = Comparison(name="toy", metric="loss", higher_is_better=False, metrics=(), rows=(), winner=None, rows_digest="")

pytestmark = pytest.mark.system
OUTCOME = FlowOutcome(name="toy", comparison=TABLE, outcomes=())


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    """A Prefect server that a test may end.

    Its database may be busy with its own services just after the start (503, seen): two tries more, and the patience
    for a cancelled flow's threads has to outlast them.
    """
    port = free_port()
    url = f"http://{HOST}:{port}/api"
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr(ending, "_THREAD_SECONDS", 60.0)
    own = start_server(port, tmp_path / "log")
    wait_for_server(own, print)
    quiet = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_LOGGING_TO_API_ENABLED: False}
    with temporary_settings(
        {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 2, PREFECT_CLIENT_RETRY_JITTER_FACTOR: 0} | quiet
    ):
        yield own
    own.stop()


def test_the_outcome_stands_when_the_server_is_gone(server: OwnServer) -> None:
    @flow
    def toy(experiment: str, overrides: list[str] | None = None) -> State[FlowOutcome]:
        server.stop()
        return ended(OUTCOME)

    end = run_to_its_end(toy, {"experiment": "toy.yaml"}, FlowOutcome)
    assert (end.outcome, end.recorded) == (OUTCOME, False)


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(DataError("no rows"), DataError), (KeyboardInterrupt(), KeyboardInterrupt), (TerminationSignal(15), Terminated)],
)
def test_the_failure_stands_when_the_server_is_gone(
    server: OwnServer, raised: BaseException, seen: type[BaseException]
) -> None:
    @flow
    def toy(experiment: str, overrides: list[str] | None = None) -> State[FlowOutcome]:
        server.stop()
        raise raised

    with pytest.raises(seen):
        run_to_its_end(toy, {"experiment": "toy.yaml"}, FlowOutcome)


def test_outcome_and_failure_are_handed_on_when_the_server_is_there(prefect_server: str) -> None:
    @flow
    def toy(experiment: str, overrides: list[str] | None = None) -> State[FlowOutcome]:
        if overrides:
            raise DataError("no rows")
        return ended(OUTCOME)

    with temporary_settings({PREFECT_API_URL: prefect_server}):
        end = run_to_its_end(toy, {"experiment": "toy.yaml"}, FlowOutcome)
        assert (end.outcome, end.recorded) == (OUTCOME, True)
        with pytest.raises(DataError, match="no rows"):
            run_to_its_end(toy, {"experiment": "toy.yaml", "overrides": ["data.train=nothing"]}, FlowOutcome)


def test_a_server_that_is_gone_before_the_flow_begins_is_named(server: OwnServer) -> None:
    @flow
    def toy(experiment: str, overrides: list[str] | None = None) -> State[FlowOutcome]:
        return ended(OUTCOME)

    server.stop()
    with pytest.raises(DependencyError, match="Prefect's server does not answer"):
        run_to_its_end(toy, {"experiment": "toy.yaml"}, FlowOutcome)


class Refused:
    """As a flow whose server answers 503 to its first request, again and again."""

    def fn(self) -> None:
        raise AssertionError("it never begins")

    def with_options(self) -> Refused:
        return Refused()

    def __call__(self, *_: object, **__: object) -> None:
        request = httpx.Request("POST", "http://anna:s3cretpass@127.0.0.1:1/api/flow_runs/")
        httpx.Response(503, request=request).raise_for_status()


def test_a_password_in_the_servers_address_is_not_said() -> None:
    with pytest.raises(DependencyError, match="503 Service Unavailable") as failed:
        run_to_its_end(Refused(), {"experiment": "toy.yaml"}, FlowOutcome)  # type: ignore[arg-type]
    assert "s3cretpass" not in str(failed.value)
