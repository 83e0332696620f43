"""Processes that outlive the command: found again by what cannot be reused, ended with all that they started."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import psutil
import pytest

from tasks.foundation.errors import DependencyError, ResourceError
from tasks.launch.ownership import process_of
from tasks.services import processes
from tasks.services.catalogue import Address, Place, Service
from tasks.services.healthy import last_words, wait_until_healthy
from tasks.services.layout import Stack, make_folders
from tests.launch.worlds import wait_until
from tests.ports import free_port

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    made = Stack(folder=tmp_path / "stack", place=Place(folder=str(tmp_path / "stack")))
    make_folders(made)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield made
    processes.stop(made, Service(name="worker", command=()))


def service(tmp_path: Path, code: str, **fields: object) -> Service:
    """A module of our own in the worker's place."""
    (tmp_path / "sleeper.py").write_text(code)
    return Service(name="worker", command=("sleeper",)).model_copy(update=fields)


def test_stopping_a_service_ends_what_it_has_started_in_another_session(stack: Stack, tmp_path: Path) -> None:
    parent = service(tmp_path, PARENT)
    started = processes.start(stack, parent, {})
    wait_until(lambda: "ready" in stack.log("worker").read_text())
    child = psutil.Process(started.pid).children()[0]

    assert processes.stop(stack, parent)

    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE
    assert processes.running(stack, parent) is None
    assert not processes.stop(stack, parent)


def test_what_a_killed_service_has_left_is_ended_before_it_starts_again(stack: Stack, tmp_path: Path) -> None:
    parent = service(tmp_path, PARENT)
    started = processes.start(stack, parent, {})
    wait_until(lambda: "ready" in stack.log("worker").read_text())
    child = psutil.Process(started.pid).children()[0]
    psutil.Process(started.pid).kill()
    wait_until(lambda: processes.running(stack, parent) is None)

    processes.make_way(stack, parent)

    assert not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE


def test_a_killed_service_starts_again_once_the_system_has_taken_the_dead_process_away(
    stack: Stack, tmp_path: Path
) -> None:
    """Postgres goes by the pid in its lock file, which a dead process keeps until then."""
    dead = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    stack.record("worker").write_text(process_of(dead.pid).model_dump_json())
    dead.kill()
    wait_until(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE)
    reaping = Timer(1, dead.wait)
    reaping.start()

    processes.make_way(stack, service(tmp_path, ""))

    assert not psutil.pid_exists(dead.pid)
    reaping.join()


def test_a_process_that_got_the_pid_of_a_dead_service_is_not_taken_for_it(stack: Stack, tmp_path: Path) -> None:
    somebody = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        theirs = process_of(somebody.pid)
        stack.record("worker").write_text(theirs.model_copy(update={"start": "1"}).model_dump_json())

        assert processes.running(stack, service(tmp_path, "")) is None

        stack.record("worker").write_text(theirs.model_dump_json())
        assert processes.running(stack, service(tmp_path, "")) == theirs
    finally:
        somebody.kill()
        somebody.wait()


def test_a_service_that_ends_is_told_with_its_last_words_and_without_secrets(stack: Stack, tmp_path: Path) -> None:
    ends = service(tmp_path, "raise SystemExit('OSError: no luck with hunter2-hunter2')")
    processes.start(stack, ends, {})
    wait_until(lambda: processes.running(stack, ends) is None)

    with pytest.raises(DependencyError, match=r"worker did not start: OSError: no luck with \*\*\*"):
        wait_until_healthy(stack, ends, {"mlflow-admin": "hunter2-hunter2"})


def test_a_port_that_is_taken_is_told_before_anything_starts(stack: Stack, tmp_path: Path) -> None:

    address = Address(port=free_port())
    with socket.create_server((address.host, address.port)), pytest.raises(ResourceError, match=f"{address.port}"):
        processes.make_way(stack, service(tmp_path, "", address=address))


def test_passwords_for_the_first_start_do_not_reach_the_flows_of_the_worker(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNELINE_SECRET_MLFLOW_ADMIN", "x")
    monkeypatch.setenv("HF_TOKEN", "of the user's")
    said = service(tmp_path, "import os; print(sorted(os.environ), flush=True)", secrets={"KEY": "mlflow-worker"})
    processes.start(stack, said, {"mlflow-worker": "y"})
    wait_until(lambda: "]" in stack.log("worker").read_text())

    told = stack.log("worker").read_text()
    assert "'HF_TOKEN'" in told and "'KEY'" in told and processes.TOKEN in told
    assert "TUNELINE_SECRET" not in told


def test_the_last_line_that_names_an_error_is_the_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("starting\nFATAL:  no such setting\nshutting down\n")

    assert last_words(log) == "FATAL:  no such setting"
