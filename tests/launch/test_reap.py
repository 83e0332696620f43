"""Orphans are found by the token of their dead owner, and nobody else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.launch.ownership import GANG, OWNER, Owner, this_process
from tasks.launch.reap import carrying, make_way, orphans, reap
from tests.launch.worlds import alive, wait_until

Leave = Callable[..., subprocess.Popen[bytes]]

STUBBORN = "import pathlib, signal, time; signal.signal(15, 1); pathlib.Path('here').touch(); time.sleep(600)"
SAVING = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path('saved').touch()
    sys.exit(143)
signal.signal(15, save)
pathlib.Path('here').touch()
time.sleep(600)
"""


@pytest.fixture(scope="module")
def dead() -> Owner:
    """An owner that has died; its pid is one of nobody now."""
    told = "from tasks.launch.ownership import this_process; print(this_process().model_dump_json())"
    return Owner.model_validate_json(subprocess.run([sys.executable, "-c", told], capture_output=True).stdout)


@pytest.fixture
def leave(tmp_path: Path, dead: Owner) -> Iterator[Leave]:
    """Starts a process with the token of an owner, in the test's folder."""
    left: list[subprocess.Popen[bytes]] = []

    def start(script: str = "import time; time.sleep(600)", owner: Owner = dead) -> subprocess.Popen[bytes]:
        environment = os.environ | {OWNER: str(owner), GANG: "feed"}
        left.append(subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, env=environment))
        return left[-1]

    yield start
    for process in left:
        process.kill()
        process.wait()


def found_in(folder: Path) -> list[int]:
    return [orphan.pid for orphan in orphans() if orphan.folder == str(folder)]


def test_an_orphan_is_told_with_what_a_person_wants_to_know(leave: Leave, tmp_path: Path, dead: Owner) -> None:
    process = leave()
    wait_until(lambda: found_in(tmp_path) == [process.pid])
    (orphan,) = [one for one in orphans() if one.pid == process.pid]

    assert orphan.owner == dead and orphan.gang == "feed"
    told = str(orphan)
    assert f"pid {process.pid} since 2" in told and f"of pid {dead.pid} in {tmp_path}" in told and "sleep" in told


def test_neither_a_living_owner_nor_one_of_another_host_loses_anything(
    leave: Leave, tmp_path: Path, dead: Owner
) -> None:
    mine = leave(owner=this_process())
    remote = leave(owner=dead.model_copy(update={"host": "elsewhere"}))
    orphan = leave()
    wait_until(lambda: found_in(tmp_path) == [orphan.pid])

    assert [one.pid for one in reap(0, tmp_path)] == [orphan.pid]
    assert alive([mine.pid, remote.pid, orphan.pid]) == [mine.pid, remote.pid]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process as somebody else")
def test_processes_of_other_users_are_left_alone(tmp_path: Path, dead: Owner) -> None:
    tmp_path.chmod(0o777)
    environment = {"PATH": os.environ["PATH"], OWNER: str(dead)}
    with subprocess.Popen(["sleep", "600"], cwd=tmp_path, env=environment, user=65534) as other:
        assert other.pid not in [one.pid for one in reap(0, tmp_path)]
        assert alive([other.pid]) == [other.pid]
        other.kill()


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="only root on Linux makes namespaces")
def test_processes_of_another_pid_namespace_are_left_alone(tmp_path: Path, dead: Owner) -> None:
    """There the owner's pid names somebody else."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo $$ && exec sleep 600"]
    environment = os.environ | {OWNER: str(dead)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE) as outside:
        assert outside.stdout and outside.stdout.readline() == b"1\n"
        assert found_in(tmp_path) == [outside.pid], "unshare itself is here, what it has started is not"
        outside.kill()


def test_ranks_can_save_before_they_are_killed(leave: Leave, tmp_path: Path) -> None:
    orphan = leave(SAVING)
    wait_until(lambda: (tmp_path / "here").exists())
    reap(120, tmp_path)

    assert (tmp_path / "saved").exists()
    assert orphan.wait() == 143


def test_a_stopped_orphan_can_save_too(leave: Leave, tmp_path: Path) -> None:
    orphan = leave(SAVING)
    wait_until(lambda: (tmp_path / "here").exists())
    orphan.send_signal(signal.SIGSTOP)
    reap(120, tmp_path)

    assert orphan.wait() == 143


def test_an_orphan_that_does_not_listen_is_killed(leave: Leave, tmp_path: Path) -> None:
    orphan = leave(STUBBORN)
    wait_until(lambda: (tmp_path / "here").exists())
    reap(0.2, tmp_path)

    assert orphan.wait() == -signal.SIGKILL


def test_a_session_ends_what_an_earlier_one_left_in_its_folder_and_speaks_of_the_rest(
    leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    orphan = leave()
    wait_until(lambda: found_in(tmp_path) == [orphan.pid])
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    make_way(0)
    assert alive([orphan.pid]) == [orphan.pid]
    assert f"tuneline reap` ends it: pid {orphan.pid} since" in caplog.text

    monkeypatch.chdir(tmp_path)
    make_way(0)
    assert orphan.wait() == -signal.SIGKILL
    assert f"ended what an earlier run had left: pid {orphan.pid} since" in caplog.text


def test_the_command_says_what_it_would_end_ends_it_and_then_has_nothing_to_do(leave: Leave, tmp_path: Path) -> None:
    orphan = leave()
    wait_until(lambda: found_in(tmp_path) == [orphan.pid])

    def said(*arguments: str) -> list[str]:
        command = [sys.executable, "-m", "flows", "reap", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    would = [line for line in said("--dry-run") if f"pid {orphan.pid} " in line]
    assert len(would) == 1 and would[0].startswith("would end pid")
    assert orphan.poll() is None
    assert [line.replace("would end", "ended") for line in would] == [
        line for line in said("--grace", "0") if f"pid {orphan.pid} " in line
    ]
    assert orphan.wait() == -signal.SIGKILL
    assert not [line for line in said("--dry-run") if f"pid {orphan.pid} " in line]


def test_a_token_finds_its_processes_but_not_the_one_who_asks(leave: Leave, dead: Owner) -> None:
    process = leave()
    wait_until(lambda: [one.pid for one in carrying(OWNER, str(dead))] == [process.pid])

    assert [one.pid for one in carrying(OWNER, "another")] == []
