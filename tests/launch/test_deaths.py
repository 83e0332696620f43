"""In which order the children of a process ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody can see it")

SCRIPT = """
import os, subprocess, sys, time
from tasks.launch.deaths import Deaths
commands, waited = {commands}, {waited}
children = [subprocess.Popen([sys.executable, "-S", "-c", "import os; " + command]) for command in commands]
for child in children:
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
for at in waited:
    children[at].wait()
deaths = Deaths()
end = time.monotonic() + 10
while len(deaths._seen) < len(children) - len(waited) and time.monotonic() < end:
    time.sleep(0.01)
print(min(range(len(children)), key=lambda at: deaths.place(children[at].pid)))
"""

FAIL, KILL, TERMINATE = "os._exit(1)", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 15)"


def first_of(commands: list[str], waited: tuple[int, ...] = ()) -> int:
    """Which of the children that do this is said to have ended first."""
    script = SCRIPT.format(commands=commands, waited=waited)
    return int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("commands", "first"), [([FAIL, KILL], 1), ([KILL, FAIL], 0), ([FAIL, TERMINATE], 0), ([FAIL, FAIL, KILL], 2)]
)
def test_of_those_that_ended_since_the_last_look_the_killed_one_was_first(commands: list[str], first: int) -> None:
    """Its peers fail because it is gone; SIGTERM is what the others get."""
    assert first_of(commands) == first


def test_one_that_was_waited_for_before_anybody_looked_ended_before_the_rest() -> None:
    assert first_of([FAIL, KILL], waited=(1,)) == 1
    assert first_of([FAIL, FAIL, KILL], waited=(1,)) == 1
