"""No process outlives the one that started it, not even when that one dies first thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launch.worlds import alive, killed_after, wait_until

GUARDED = "import time; from tasks.launch.guard import end_with_parent; end_with_parent(); {}; time.sleep(600)"


def test_a_process_whose_parent_is_gone_before_it_looked_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the system names another parent, which will live for ever."""
    monkeypatch.setenv("TUNELINE_PARENT_PID", str(os.getppid()))

    assert subprocess.run([sys.executable, "-c", GUARDED.format("pass")], check=False).returncode == 143


def test_a_process_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    say = f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str(os.getpid()) + ' ')"
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GUARDED.format(say)!r}])"
    with killed_after("-c", middle):
        wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        child = int(told.read_text())
        assert alive([child]) == [child]

    wait_until(lambda: alive([child]) == [])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child at the death of its parent")
def test_a_stopped_process_whose_guard_has_no_turn_is_killed_with_its_parent(tmp_path: Path) -> None:
    told = tmp_path / "told"
    stop = (
        f"import os, pathlib; pathlib.Path({str(told)!r}).write_text(str(os.getpid()) + ' '); os.kill(os.getpid(), 19)"
    )
    middle = (
        "import os, subprocess, sys; os.environ['TUNELINE_PARENT_PID'] = str(os.getpid());"
        f"subprocess.run([sys.executable, '-c', {GUARDED.format(stop)!r}])"
    )
    with killed_after("-c", middle):
        wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        child = int(told.read_text())
        wait_until(lambda: psutil.Process(child).status() == psutil.STATUS_STOPPED)

    wait_until(lambda: alive([child]) == [])


CANCELLED = """
import pathlib, signal, sys, time
from tasks.launch.guard import cancel_with_parent
def end(*_):
    pathlib.Path(sys.argv[1] + '.cancelled').touch()
    {then}
signal.signal(signal.SIGTERM, end)
cancel_with_parent(0.2)
pathlib.Path(sys.argv[1]).write_text(str(__import__('os').getpid()) + ' ')
time.sleep(600)
"""


@pytest.mark.parametrize("then", ["sys.exit(143)", "pass"], ids=["in order", "by force"])
def test_a_flow_without_a_worker_is_cancelled_and_then_ended(tmp_path: Path, then: str) -> None:
    told = tmp_path / "told"
    script = CANCELLED.format(then=then)
    with killed_after(
        "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {script!r}, {str(told)!r}])"
    ):
        wait_until(lambda: told.exists() and told.read_text().endswith(" "))
        child = int(told.read_text())

    wait_until(lambda: alive([child]) == [])
    assert (tmp_path / "told.cancelled").exists()
