"""`doctor` asks whether the tracking server is there."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tasks.foundation.errors import DependencyError
from tasks.tracking import check_reachable
from tests.ports import refusing_port

pytestmark = pytest.mark.xdist_group("mlflow")


def test_a_database_that_is_there_or_can_be_made_is_reachable(database: str, tmp_path: Path) -> None:
    check_reachable(database, 120.0)
    check_reachable(f"sqlite:///{tmp_path}/new/folder/a.db", 120.0)

    assert not (tmp_path / "new").exists()


def test_a_file_that_is_no_database_is_not_reachable(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, but long enough to be looked at" * 100)

    with pytest.raises(DependencyError, match="not a database"):
        check_reachable(f"sqlite:///{tmp_path}/a.db", 1.0)


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql", "mysql+pymysql"])
def test_a_port_where_nobody_listens_is_not_reachable_and_no_password_is_told(scheme: str) -> None:
    with refusing_port() as port, pytest.raises(DependencyError) as caught:
        check_reachable(f"{scheme}://user:canary@127.0.0.1:{port}/mlflow", 120.0)

    assert caught.value.exit_code == 21
    assert "canary" not in str(caught.value)
    assert f"{scheme}://***@127.0.0.1" in str(caught.value)


def test_a_server_that_never_answers_is_not_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DependencyError, match="timed out"):
        check_reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)


@pytest.mark.parametrize(("status", "reason"), [(401, "401"), (500, "500"), (200, "no MLflow server")])
def test_what_is_no_mlflow_server_or_will_not_have_us_is_not_reachable(status: int, reason: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            return None

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(DependencyError, match=reason):
            check_reachable(f"http://127.0.0.1:{other.server_port}", 120.0)
        other.shutdown()


def test_a_server_behind_a_token_is_asked_with_the_token_that_mlflow_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers.get("Authorization") == "Bearer canary" else 401)
            self.end_headers()
            self.wfile.write(b"3.17.2")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            return None

    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "canary")
    with HTTPServer(("127.0.0.1", 0), Guarded) as guarded:
        threading.Thread(target=guarded.serve_forever, daemon=True).start()
        check_reachable(f"http://127.0.0.1:{guarded.server_port}", 120.0)
        guarded.shutdown()


def test_a_password_that_looks_like_a_port_is_not_told() -> None:
    with refusing_port() as port, pytest.raises(DependencyError, match="refused") as caught:
        check_reachable(f"postgresql://user:canary/@127.0.0.1:{port}/mlflow", 120.0)

    assert "canary" not in str(caught.value)
