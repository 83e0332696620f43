"""Reachability, against real sockets and files."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tasks.health import checks
from tasks.health.servers import prefect_check, stray_store_check, tracking_check
from tests.ports import refusing_port


def test_a_server_that_listens_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tracking_check(f"http://127.0.0.1:{port}").ok
        assert prefect_check(f"http://127.0.0.1:{port}/api").ok


def test_a_server_that_is_down_is_named_with_a_way_out() -> None:
    with refusing_port() as port:
        check = tracking_check(f"http://127.0.0.1:{port}")
    assert not check.ok
    assert f"127.0.0.1:{port} cannot be reached" in check.detail
    assert "tracking.uri" in check.fix


def test_credentials_in_an_address_are_never_shown() -> None:
    with refusing_port() as port:
        check = tracking_check(f"http://user:secret@127.0.0.1:{port}/?token=secret")
    assert "secret" not in check.detail + check.fix


@pytest.mark.parametrize("uri", ["databricks", "http://", "http://host:port", "http://[::1", "", "file:///x"])
def test_an_address_without_host_and_port_is_refused(uri: str) -> None:
    assert not tracking_check(uri).ok


def test_a_database_file_is_judged_by_its_folder(tmp_path: Path) -> None:
    assert tracking_check(f"sqlite:///{tmp_path}/mlflow.db").ok
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "file").write_text("")
    check = tracking_check(f"sqlite:///{tmp_path}/file/mlflow.db")
    assert not check.ok
    assert "tracking.uri" in check.fix, "the runs folder is not where it lies"


def test_without_an_api_url_prefect_starts_its_own_server() -> None:
    assert prefect_check(None).ok
    assert prefect_check("").ok


def test_a_filled_mlruns_folder_is_a_finding(tmp_path: Path) -> None:
    assert stray_store_check(tmp_path).ok
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    assert not stray_store_check(tmp_path).ok


def test_every_finding_has_its_own_name_and_the_environment_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = tmp_path / "elsewhere"
    with refusing_port() as port:
        environment = {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "TUNELINE_RUNS": str(runs)}
        found = {check.name: check for check in checks(environment)}
    assert len(found) == len(checks({}))
    assert not found["prefect server"].ok
    assert str(runs) in found["runs folder"].detail
    assert "sqlite:///mlflow.db" in found["mlflow store"].detail
