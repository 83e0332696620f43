"""Answers that are not MLflow's own judgement of a call: a proxy's, a broken database's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.tracking import MetricPoint
from tasks.tracking.mlflow_sink import MlflowSink
from tasks.tracking.protocol import Batch, RefusedError, UnavailableError

pytestmark = pytest.mark.xdist_group("mlflow")

BATCH = Batch(metrics=(MetricPoint(name="loss", value=1.0, timestamp_ms=1),))
HTML = "<html>from a proxy</html>"


@contextmanager
def answering(status: int, body: str) -> Iterator[str]:
    """A server that gives one answer to everything."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815 - the name is inherited

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def said_by_mlflow(message: str) -> str:
    return json.dumps({"error_code": "BAD_REQUEST", "message": message})


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
def test_what_a_proxy_says_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with answering(status, HTML) as uri, pytest.raises(UnavailableError, match=str(status)):
        MlflowSink(uri, tmp_path).log_batch("a", BATCH)


def test_a_request_that_is_too_large_for_a_proxy_is_refused_so_that_halves_of_it_are_tried(tmp_path: Path) -> None:
    with answering(413, HTML) as uri, pytest.raises(RefusedError, match="413"):
        MlflowSink(uri, tmp_path).log_batch("a", BATCH)


@pytest.mark.parametrize(
    "message",
    [
        "QueuePool limit of size 5 overflow 10 reached (Background on this error at: https://sqlalche.me/e/20/3o7r)",
        "(psycopg2.InterfaceError) connection already closed (Background on this error at: "
        "https://sqlalche.me/e/21/rvf5)",
    ],
)
def test_a_server_whose_database_broke_off_takes_the_same_metrics_later(tmp_path: Path, message: str) -> None:
    with answering(400, said_by_mlflow(message)) as uri, pytest.raises(UnavailableError, match=r"sqlalche\.me"):
        MlflowSink(uri, tmp_path).log_batch("a", BATCH)


@pytest.mark.parametrize("code", ["9h9h", "gkpj"])
def test_data_that_the_servers_database_cannot_hold_are_refused(tmp_path: Path, code: str) -> None:
    body = said_by_mlflow(f"(Background on this error at: https://sqlalche.me/e/20/{code})")
    with answering(400, body) as uri, pytest.raises(RefusedError, match=code):
        MlflowSink(uri, tmp_path).set_terminated("a", "FINISHED", 1)
