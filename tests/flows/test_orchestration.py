"""The Prefect server of our own: why it did not start, and that it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flows import orchestration
from flows.orchestration import OwnServer, wait_for_server
from tasks.foundation.errors import DependencyError, ResourceError
from tests.launch.worlds import out_of_reach
from tests.ports import free_port


def ended(folder: Path, script: str) -> OwnServer:
    """A server that has ended, with what it said."""
    log = folder / "prefect-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=output, stderr=subprocess.STDOUT)
    process.wait()
    return OwnServer(process, log)


def test_a_server_that_ended_for_want_of_disk_is_a_matter_of_disk(tmp_path: Path) -> None:
    server = ended(tmp_path, "raise OSError(28, 'No space left on device')")
    with pytest.raises(ResourceError, match=r"prefect-server\.log: the disk is full, .*No space left on device"):
        server.check()


def test_a_server_that_ended_is_told_with_its_last_error(tmp_path: Path) -> None:
    server = ended(tmp_path, "import nothing.here")
    with pytest.raises(DependencyError, match="did not start: ModuleNotFoundError: No module named 'nothing'"):
        server.check()


def test_a_server_that_said_nothing_is_told_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="exit code 7"):
        ended(tmp_path, "raise SystemExit(7)").check()


def test_a_server_that_lives_is_waited_for(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    server = OwnServer(process, tmp_path / "log")
    server.check()
    server.stop()
    assert process.returncode


def test_a_server_that_the_system_does_not_let_go_of_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it waited for, the time limit of this test would end it."""
    monkeypatch.setattr(orchestration, "_STOP_SECONDS", 0.1)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with out_of_reach(process.pid):
        OwnServer(process, tmp_path / "log").stop()
        assert process.poll() is None
    process.wait()


def test_a_server_of_the_users_that_does_not_answer_is_spoken_of_once_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setenv("PREFECT_API_URL", f"http://anna:s3cretpass@{orchestration.HOST}:{free_port()}/api")
    monkeypatch.setattr(orchestration, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(orchestration, "_START_SECONDS", 0.5)
    with pytest.raises(DependencyError, match="no Prefect server answers at http://") as failed:
        wait_for_server(None, said.append)
    (line,) = said
    assert "does not answer; waiting up to" in line
    assert "s3cretpass" not in line + str(failed.value)
