"""What a dead process left open in Prefect and MLflow is closed; what lives, or may live, is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.client.schemas import FlowRun
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.states import Cancelled, Cancelling
from rich.console import Console

from flows.commands import reconcile as command
from flows.reconcile import NOTED, close_flow_runs, note_flow_run, prefect_client, reconcile_left_open
from tasks.foundation.errors import ConfigError, DependencyError
from tasks.launch.ownership import this_process
from tasks.tracking import RunRef
from tasks.workspace import Workspace
from tests.flows.worlds import client, runs_of, tuneline
from tests.launch.worlds import wait_until
from tests.tracking.kids import create_and_wait, start

pytestmark = pytest.mark.timeout(600)

LONG_FLOW = """
import pathlib, time
from prefect import flow, task
from prefect.runtime import flow_run
from flows.reconcile import forget_flow_run, note_flow_run

@task
def long():
    pathlib.Path("told").write_text(flow_run.id + " ")
    time.sleep({seconds})

@flow(name="long", on_completion=[forget_flow_run])
def run():
    note_flow_run()
    note_flow_run()  # as when Prefect tries the flow again
    long()

run()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    return Workspace(runs=tmp_path / "runs")


@contextmanager
def running_flow(folder: Path, seconds: int = 600) -> Iterator[tuple[uuid.UUID, subprocess.Popen[bytes]]]:
    """A flow in a process of its own, whose task has begun; it is killed when the block ends."""
    with subprocess.Popen([sys.executable, "-c", LONG_FLOW.format(seconds=seconds)], cwd=folder) as process:
        told = folder / "told"
        try:
            wait_until(lambda: told.exists() and told.read_text().endswith(" "))
            yield uuid.UUID(told.read_text().strip()), process
        finally:
            process.kill()


def notes_in(here: Workspace) -> list[Path]:
    return list(here.flow_runs.iterdir())


def state_of(run: uuid.UUID) -> str:
    with prefect_client() as prefect:
        found: FlowRun = prefect.read_flow_run(run)
    return str(found.state_name)


def task_states_of(run: uuid.UUID) -> list[str]:
    with prefect_client() as prefect:
        tasks = prefect.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
    return [str(task.state_name) for task in tasks]


def test_a_flow_run_and_its_tasks_are_closed_after_their_process_was_killed_and_not_before(here: Workspace) -> None:
    with running_flow(here.runs.parent) as (run, _):
        wait_until(lambda: task_states_of(run) == ["Running"])  # Prefect's server hears of it a little later
        assert close_flow_runs(here) == []
        assert state_of(run) == "Running"

    assert "closed" in tuneline(here.runs.parent, "reconcile").stdout
    assert (state_of(run), task_states_of(run)) == ("Crashed", ["Crashed"])
    assert notes_in(here) == []
    again = tuneline(here.runs.parent, "reconcile")
    assert (again.returncode, again.stdout) == (0, "Nothing was left open.\n")


def test_one_that_died_while_it_was_being_cancelled_is_cancelled(here: Workspace) -> None:
    with running_flow(here.runs.parent) as (run, _), prefect_client() as prefect:
        prefect.set_flow_run_state(run, Cancelling(), force=True)

    assert len(close_flow_runs(here)) == 1
    assert state_of(run) == "Cancelled"


def test_a_flow_run_that_ended_in_order_leaves_no_note(here: Workspace) -> None:
    with running_flow(here.runs.parent, seconds=0) as (run, process):
        process.wait()

    assert state_of(run) == "Completed"
    assert notes_in(here) == []


def test_the_runner_of_a_cancelled_flow_run_takes_the_dead_ones_note_away(here: Workspace) -> None:
    """Prefect's runner calls the hook in a process of its own, by the names of its arguments."""
    with running_flow(here.runs.parent) as (run, _):
        pass

    assert len(notes_in(here)) == 1
    for hook in NOTED["on_cancellation"]:
        hook(flow=reconcile_left_open, flow_run=FlowRun(id=run, flow_id=uuid.uuid4()), state=Cancelled())
    assert notes_in(here) == []


def test_a_flow_run_of_another_server_is_left_for_that(here: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    note = here.flow_runs / f"{uuid.uuid4()}.owner"
    note.parent.mkdir(parents=True)
    note.touch()

    assert close_flow_runs(here) == []
    assert note.exists() and "PREFECT_API_URL may name another" in caplog.text


class Broken(BaseHTTPRequestHandler):
    """A server that is there, and cannot do its work."""

    def do_GET(self) -> None:
        self.send_error(500)


def test_a_flow_run_that_the_server_cannot_speak_of_now_is_left_for_the_next_time_and_nothing_fails(
    here: Workspace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = here.flow_runs / f"{uuid.uuid4()}.owner"
    note.parent.mkdir(parents=True)
    note.touch()
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        assert close_flow_runs(here) == []
        server.shutdown()
    assert note.exists() and f"{note.stem} cannot be closed now" in caplog.text


def test_the_flows_function_called_by_itself_leaves_no_note(here: Workspace) -> None:
    note_flow_run()
    assert not here.flow_runs.exists()


def test_a_flow_run_of_another_host_is_closed_only_when_no_host_is_running_any(here: Workspace) -> None:
    with running_flow(here.runs.parent) as (run, _):
        pass
    (note,) = notes_in(here)
    note.write_text(str(this_process().model_copy(update={"host": "elsewhere"})))

    assert close_flow_runs(here) == []
    assert state_of(run) == "Running"
    assert len(close_flow_runs(here, all_hosts=True)) == 1
    assert state_of(run) == "Crashed"


def test_the_flow_closes_the_runs_of_dead_processes_in_mlflow_too(here: Workspace) -> None:
    here.runs.mkdir()
    owner = start(create_and_wait, here.spool, here.runs / "told")
    wait_until((here.runs / "told").exists)
    ref = RunRef.model_validate_json((here.runs / "told").read_text())
    owner.kill()
    owner.join()
    closed = reconcile_left_open.fn()

    assert closed.runs == (ref.name,) and closed.flow_runs == ()
    assert {run.info.status for run in runs_of(client(here.runs.parent), "e")} == {"KILLED"}


def test_looking_again_and_again_goes_on_after_an_outage_and_not_with_a_wrong_setting(
    here: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What each look meets is made up: Prefect's own patience with a server that is away takes minutes."""
    met: list[Exception | list[str]] = [
        DependencyError("no server answers"),
        OSError(28, "No space left on device"),
        [],
        ["Prefect: closed x"],
    ]
    looks = iter([*met, ConfigError("there is no such scheme")])

    def look(*_: object, **__: object) -> list[str]:
        seen = next(looks)
        if isinstance(seen, Exception):
            raise seen
        return seen

    monkeypatch.setattr(command, "close_left_open", look)
    monkeypatch.setattr(command, "log_to", lambda path: None)  # pytest keeps the log
    with pytest.raises(ConfigError):
        command.reconcile_runs(None, 0.01, Console(width=200), all_hosts=False)

    said = capsys.readouterr().out.splitlines()
    assert [line.partition(".")[0] for line in said] == [
        "Not this time: no server answers",
        "Not this time: the disk is full",
        "Prefect: closed x",
    ]
    assert caplog.text.count("this look failed") == 2
