"""What the registry's errors tell."""

from __future__ import annotations

import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tasks.foundation.errors import DependencyError
from tasks.registry.server import Registry
from tasks.tracking import TrackingSettings


def test_a_server_that_hangs_up_leaves_no_password_in_the_error_or_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class HangsUp(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/version":
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"3.17.2")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is inherited
            return None

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with ThreadingHTTPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        registry = Registry(TrackingSettings(uri=f"http://user:canary@127.0.0.1:{server.server_port}"))
        with pytest.raises(DependencyError) as caught:
            registry.find("e2e", "a" * 64)
        server.shutdown()

    assert "canary" not in "".join(traceback.format_exception(caught.value))
