"""Processes are started by a thread that stays, and swept up when the pipeline is gone."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tasks.launch.guard import PARENT
from tasks.launch.ownership import OWNER, this_process
from tasks.launch.starting import start_process
from tests.launch.worlds import alive, killed_after, wait_until

GUARDED = """
import pathlib, sys, time
from tasks.launch.guard import end_with_parent
end_with_parent()
pathlib.Path(sys.argv[1]).touch()
time.sleep(600)
"""

PIPELINE = """
import os, pathlib, subprocess, sys, time
from tasks.launch.starting import start_process
process = start_process(lambda: subprocess.Popen([sys.executable, '-c', {script!r}]))
pathlib.Path({told!r}).write_text(f'{{process.pid}} ')
time.sleep(600)
"""


def guarded(told: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {PARENT: str(os.getpid())}
    return subprocess.Popen([sys.executable, "-c", GUARDED, str(told)], env=environment)


def started_in_a_thread(told: Path) -> subprocess.Popen[bytes]:
    """By a thread that has ended when this returns; the process has asked the kernel for its end by then."""
    found: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        found.append(start_process(lambda: guarded(told)))
        wait_until(told.exists)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    return found[0]


def test_a_process_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    process = started_in_a_thread(tmp_path / "told")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.kill()
    process.wait()


def test_what_is_raised_by_a_start_reaches_the_one_who_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        start_process(lambda: subprocess.Popen([tmp_path / "no such program"]))


def test_whatever_is_started_carries_this_process_as_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where something has cleared it from the environment since the last start."""
    start_process(lambda: None)
    monkeypatch.delenv(OWNER)
    process = start_process(lambda: subprocess.Popen(["sleep", "600"]))
    assert psutil.Process(process.pid).environ()[OWNER] == str(this_process())
    process.kill()
    process.wait()


def test_a_forked_process_starts_its_own(tmp_path: Path) -> None:
    """The thread is not forked with the rest; without one of its own, the fork would wait for ever."""
    start_process(lambda: None)
    context = multiprocessing.get_context("fork")
    fork = context.Process(target=started_in_a_thread, args=(tmp_path / "told",), daemon=True)
    fork.start()
    fork.join(120)
    assert fork.exitcode == 0


@pytest.mark.parametrize("action", ["pass", "import os, signal; os.setsid(); os.kill(os.getpid(), signal.SIGSTOP)"])
def test_the_warden_kills_what_has_no_guard_and_what_is_stopped(tmp_path: Path, action: str) -> None:
    told = tmp_path / "told"
    script = f"{action}; import time; time.sleep(600)"
    with killed_after("-c", PIPELINE.format(script=script, told=str(told))):
        wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        left = int(told.read_text())
        if action != "pass":
            wait_until(lambda: psutil.Process(left).status() == psutil.STATUS_STOPPED)
        assert alive([left]) == [left]

    wait_until(lambda: alive([left]) == [])


def test_the_warden_ends_with_a_pipeline_that_ends_in_order(tmp_path: Path) -> None:
    script = (
        "import psutil; from tasks.launch.starting import start_process; start_process(lambda: None);"
        "print([c.pid for c in psutil.Process().children() if 'tasks.launch.warden' in c.cmdline()][0])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    warden = int(ended.stdout)

    wait_until(lambda: alive([warden]) == [])


def test_a_warden_that_was_killed_is_replaced(tmp_path: Path) -> None:
    def warden() -> list[psutil.Process]:
        return [one for one in psutil.Process().children() if "tasks.launch.warden" in one.cmdline()]

    start_process(lambda: None)
    (first,) = warden()
    first.kill()
    wait_until(lambda: not first.is_running() or first.status() == psutil.STATUS_ZOMBIE)
    start_process(lambda: None)

    (second,) = warden()
    assert second.pid != first.pid
