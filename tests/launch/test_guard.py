"""No process outlives the one that started it, not even when that one dies first thing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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
