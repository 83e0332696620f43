"""Rows 3 to 5, 15, 44 and 52: two ranks under torchrun, and what stays alive of them."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil

from benchmarks.control.damage import copied, killed_case
from benchmarks.control.stage import Ranks, Stage
from benchmarks.findings import Finding, Verdict
from benchmarks.running import ROOT, environment

_ORPHAN_SECONDS = 5.0
"""After which nothing of a run may be alive."""

_HANG_SECONDS = 60.0
_BOUND_SECONDS = 600.0
_ENDLESS = {"steps": "100000"}
_TOGETHER = "--standalone"
_LONGER = {"steps": "120", "save-steps": "20"}
"""Enough steps to be hit from outside in the middle."""


def launcher_killed(stage: Stage) -> Iterator[Finding]:
    """Row 3."""
    case = stage.case("row-03")
    with Ranks(case, _TOGETHER, changes=_ENDLESS) as gang:
        gang.wait_for(lambda: bool(case.checkpoints()))
        gang.process.kill()
        gang.process.wait()
        time.sleep(_ORPHAN_SECONDS)
        left, seen = gang.ranks(), case.checkpoints()
        time.sleep(_ORPHAN_SECONDS)
        going_on = case.checkpoints() != seen
    words = f"{len(left)} of 2 ranks alive {_ORPHAN_SECONDS:.0f} s later"
    saw = words + (", training and saving on" if going_on else "")
    verdict: Verdict = "leftovers" if left else "right"
    yield Finding(name="03", done="SIGKILL to torchrun in a step", saw=saw, verdict=verdict)


def starter_killed(stage: Stage) -> Iterator[Finding]:
    """Row 4: the shell script that runs one method after another is this user's pipeline."""
    case = stage.case("row-04")
    script = [sys.executable, str(ROOT / "benchmarks" / "plain_script.py"), *case.arguments(False, _ENDLESS)]
    with case.log.open("wb") as log:
        shell = subprocess.Popen(
            ["sh", "-c", '"$@"; true', "sh", *script],
            cwd=case.folder,
            env=environment(case.folder, threads=1),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    while not case.checkpoints() and shell.poll() is None:
        time.sleep(0.05)
    (child,) = psutil.Process(shell.pid).children()
    shell.kill()
    shell.wait()
    time.sleep(_ORPHAN_SECONDS)
    alive = child.is_running()
    if alive:
        child.kill()
    words = "trains on" if alive else "is gone"
    saw = f"the script {words} {_ORPHAN_SECONDS:.0f} s later"
    verdict: Verdict = "leftovers" if alive else "right"
    yield Finding(name="04", done="SIGKILL to the shell script that runs it", saw=saw, verdict=verdict)


def rank_killed(stage: Stage) -> Iterator[Finding]:
    """Row 5: one of two; then the same command again."""
    whole = stage.case("row-05-undisturbed")
    with Ranks(whole, _TOGETHER, changes=_LONGER) as gang:
        undisturbed = gang.wait(_BOUND_SECONDS)
    case = stage.case("row-05")
    with Ranks(case, _TOGETHER, changes=_LONGER) as gang:
        gang.wait_for(lambda: bool(case.checkpoints()))
        gang.ranks()[1].kill()
        first = gang.wait(_BOUND_SECONDS)
        left = len(gang.alive())
    with Ranks(case, _TOGETHER, resume=True, changes=_LONGER) as gang:
        again = gang.wait(_BOUND_SECONDS)
    saw = f"{first.ending}; {left} processes alive then; again: {again.ending}"
    done = "SIGKILL to one of two ranks"
    if undisturbed.code != 0 or again.code != 0:
        yield Finding(name="05", done=done, saw=saw, verdict="loud")
        return
    running = case.running()
    same = case.digest() == whole.digest()
    saw += ", the same weights" if same else ", other weights than undisturbed"
    verdict: Verdict = "silent" if not same else "leftovers" if running or left else "right"
    yield Finding(name="05", done=done, saw=f"{saw}; {running} run(s) stay RUNNING in MLflow", verdict=verdict)


def rank_stopped(stage: Stage) -> Iterator[Finding]:
    """Row 15: one of two ranks is stopped, the other one waits for it."""
    case = stage.case("row-15-stopped")
    with Ranks(case, _TOGETHER, changes=_ENDLESS) as gang:
        gang.wait_for(lambda: bool(case.checkpoints()))
        gang.ranks()[1].send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        while time.monotonic() - stopped < _HANG_SECONDS and gang.process.poll() is None:
            time.sleep(0.5)
        code = gang.process.poll()
    saw = f"exit {code}" if code is not None else f"still waiting after {_HANG_SECONDS:.0f} s; gloo gives up after 1800"
    verdict: Verdict = "hangs" if code is None else "loud"
    yield Finding(name="15", done="SIGSTOP to one of two ranks", saw=saw, verdict=verdict)


def other_world_size(stage: Stage) -> Iterator[Finding]:
    """Row 44: a checkpoint of one rank, resumed by two."""
    case = copied(killed_case(stage, "row-44-ranks"), "row-44-two-ranks")
    with Ranks(case, _TOGETHER, resume=True) as gang:
        attempt = gang.wait(_BOUND_SECONDS)
    if attempt.code == 0:
        words = "exit 0, the rest was trained with twice the batch, no word"
    yield Finding(
        name="44",
        done="a checkpoint of one rank resumed by two",
        saw=words if attempt.code == 0 else attempt.ending,
        verdict="silent" if attempt.code == 0 else "loud",
    )


def port_in_use(stage: Stage) -> Iterator[Finding]:
    """Row 52: the port at which ranks meet is taken, as 29500 is by another run on this host."""
    case = stage.case("row-52")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Ranks(case, f"--master-port={port}") as gang:
            attempt = gang.wait(_HANG_SECONDS)
    verdict: Verdict = "hangs" if attempt.code is None else "right" if attempt.code == 0 else "loud"
    yield Finding(name="52", done="the port at which ranks meet is in use", saw=attempt.ending, verdict=verdict)
