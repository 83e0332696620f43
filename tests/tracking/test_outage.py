"""A real MLflow server that is away, breaks, stalls and comes back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tasks.tracking import MetricPoint, Run, RunRef, TrackingSettings, create_run, run_page
from tasks.tracking.journal import beside
from tasks.tracking.shipper import Shipper
from tests.tracking.conftest import Server
from tests.tracking.proxy import Mode, Proxy

pytestmark = pytest.mark.xdist_group("mlflow")

POINTS = [MetricPoint(name="loss", value=1 / (step + 1), step=step, timestamp_ms=step) for step in range(1500)]
MODES: list[Mode] = ["refuse", "black hole", "error 500", "lose answers", "slow"]


def record(spool: Path, name: str, points: list[MetricPoint]) -> RunRef:
    parent = create_run(spool, name=f"parent of {name}", experiment="stories")
    ref = create_run(spool, name=name, experiment="stories", parent=parent)
    Run(ref).log_params({"method": {"kind": "lora"}})
    Run(ref).log_metric_series(points)
    Run(ref).log_text("hello", "folder/a.txt")
    Run(parent).finish("FINISHED")
    return ref


def check(server: Server, name: str, run_id: str | None) -> None:
    """The run is there once, with everything once."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("stories")
    runs = client.search_runs([experiment.experiment_id])
    (found,) = [run for run in runs if run.info.run_name == name]
    assert len([run for run in runs if run.info.run_name == f"parent of {name}"]) == 1
    assert found.info.run_id == run_id
    history = client.get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(point.step, point.value) for point in POINTS]
    assert found.data.params == {"method.kind": "lora"}
    assert found.info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(run_id, "folder")] == ["folder/a.txt"]


def test_row_36_down_at_the_start_and_throughout_then_everything_is_there_once_at_the_next_start(
    server: Server, proxy: Proxy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proxy.turn("refuse")
    with Shipper(TrackingSettings(uri=proxy.uri, flush_seconds=0.5), tmp_path / "spool", tmp_path) as shipper:
        ref = record(tmp_path / "spool", "down throughout", POINTS)
        Run(ref).finish("FINISHED")
        while proxy.refused < 1:
            shipper.flush(0.2)

    proxy.turn("pass")
    with Shipper(TrackingSettings(uri=proxy.uri, flush_seconds=120), tmp_path / "spool", tmp_path) as shipper:
        assert shipper.flush(120) == 0
        run_id = shipper.run_id(ref)
        url = run_page(TrackingSettings(uri=proxy.uri), ref)

    check(server, "down throughout", run_id)
    assert url is not None and url.startswith(f"{proxy.uri}/#/experiments/") and url.endswith(f"/runs/{run_id}")
    assert not beside(ref.journal, ".rejected.jsonl").exists()
    printed = capfd.readouterr()
    assert "View run" not in printed.out
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("mode", MODES)
def test_row_37_an_outage_in_the_middle_neither_blocks_nor_loses_nor_doubles(
    server: Server, proxy: Proxy, tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Shipper(TrackingSettings(uri=proxy.uri, flush_seconds=120), tmp_path / "spool", tmp_path) as shipper:
        ref = record(tmp_path / "spool", mode, POINTS[:700])
        with monkeypatch.context() as impatient:
            impatient.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")  # seconds; while nobody answers, not our 30
            proxy.turn(mode)
            began = time.monotonic()
            for point in POINTS[700:]:
                Run(ref).log_metric_series([point])
            wrote_seconds = time.monotonic() - began
            while proxy.refused < (1 if mode == "slow" else 2):  # a slow connection is kept
                shipper.flush(0.2)
        Run(ref).finish("FINISHED")
        proxy.turn("pass")
        assert shipper.flush(120) == 0
        run_id = shipper.run_id(ref)

    check(server, mode, run_id)
    assert wrote_seconds < 800 * 2, "each append waited for the server's timeout"


def test_a_password_is_used_and_told_to_nobody(
    server: Server, proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    uri = proxy.uri.replace("http://", "http://user:canary@")
    proxy.turn("error 500")
    with Shipper(TrackingSettings(uri=uri, flush_seconds=0.5), tmp_path / "spool", tmp_path) as shipper:
        ref = create_run(tmp_path / "spool", name="secret", experiment="stories")
        while proxy.refused < 1:
            shipper.flush(0.2)
        proxy.turn("pass")
        assert shipper.flush(120) == 0
        url = run_page(TrackingSettings(uri=uri), ref)

    printed = capfd.readouterr()
    in_spool = "".join(file.read_text() for file in (tmp_path / "spool").rglob("*.json*"))
    assert "not reached" in caplog.text
    assert "canary" not in f"{caplog.text}{printed.out}{printed.err}{url}{in_spool}"


@pytest.mark.system
def test_row_37_a_server_that_is_killed_and_started_again_has_everything_once(server: Server, tmp_path: Path) -> None:
    with Shipper(TrackingSettings(uri=server.uri, flush_seconds=120), tmp_path / "spool", tmp_path) as shipper:
        ref = record(tmp_path / "spool", "killed server", POINTS[:700])
        shipper.flush(0.3)
        server.kill()
        for point in POINTS[700:]:
            Run(ref).log_metric_series([point])
        shipper.flush(3)
        server.start()
        Run(ref).finish("FINISHED")
        assert shipper.flush(120) == 0
        run_id = shipper.run_id(ref)

    check(server, "killed server", run_id)
