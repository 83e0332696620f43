"""How `tuneline` ends: one line, a stable exit code, nothing left running, and no traceback, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.flows.worlds import (
    cells_of,
    client,
    parents_of,
    processes_in,
    runs_of,
    started,
    tuneline,
    wait_for_step,
    write_experiment,
    write_world,
)
from tests.launch.worlds import wait_until
from tests.training.limits import fill, small_disk

pytestmark = pytest.mark.timeout(600)
PATIENCE_SECONDS = 120
LONG = {"max_steps": 5000, "per_device_train_batch_size": 4, "save_steps": 50}
SHORT = LONG | {"max_steps": 300}
ONE = [{"kind": "lora", "r": 4, "lora_alpha": 8, "learning_rate": 1e-2}]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A long training, under a Prefect server that `tuneline` starts by itself."""
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.delenv("PREFECT_HOME")
    write_world(tmp_path)
    write_experiment(tmp_path, training=LONG, methods=ONE)
    return tmp_path


def own_server(process: subprocess.Popen[str]) -> psutil.Process:
    """The Prefect server that a running `tuneline` has started."""
    (server,) = [c for c in psutil.Process(process.pid).children() if "flows.prefect_server" in c.cmdline()]
    return server


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 143, "SIGTERM")],
)
@pytest.mark.system
def test_a_signal_to_the_whole_group_ends_in_one_line_and_leaves_nothing(
    world: Path, number: int, code: int, name: str
) -> None:
    with started(world, "run", "toy.yaml") as process:
        wait_for_step(world, 3, process)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        wait_until(lambda: processes_in(world) == [])
    assert (process.returncode, len(errors.splitlines())) == (code, 1), errors
    assert name in errors and "run it again" in errors
    runs = runs_of(client(world))
    parent = parents_of(runs)[-1]
    assert (parent.info.status, cells_of(runs, parent)["lora"].info.status) == ("KILLED", "KILLED")


@pytest.mark.system
def test_row_40_a_prefect_server_that_dies_in_the_middle_takes_nothing_with_it(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "1")
    write_experiment(world, training=SHORT, methods=ONE)
    with started(world, "run", "toy.yaml") as process:
        wait_for_step(world, 3, process)
        own_server(process).kill()
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, errors) == (0, ""), errors
    assert "Registered toy version 1" in output and "Nothing is lost" in output
    parent = parents_of(runs_of(client(world)))[-1]
    assert parent.info.status == "FINISHED"


def test_a_prefect_server_that_cannot_start_is_named_with_its_reason(world: Path) -> None:
    (world / "runs").mkdir()
    (world / "runs" / "prefect").write_text("a file where its folder should be")
    done = tuneline(world, "run", "toy.yaml")
    assert (done.returncode, len(done.stderr.splitlines())) == (21, 1), done.stderr
    assert "runs/prefect-server.log" in done.stderr and "Error" in done.stderr
    assert "PREFECT_API_URL" not in done.stderr


def test_bare_tuneline_shows_the_help_and_nothing_else(world: Path) -> None:
    done = tuneline(world)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == tuneline(world, "--help").stdout and "validate" in done.stdout


@pytest.mark.parametrize("arguments", ["methods", "--help", "validate toy.yaml"])
def test_output_that_nobody_can_take_is_a_full_disk(world: Path, arguments: str) -> None:
    command = f"{sys.executable} -m flows {arguments} > /dev/full"
    done = subprocess.run(["sh", "-c", command], cwd=world, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (20, 1), done.stderr
    assert "disk is full" in done.stderr


GUARDED = """
import logging, sys, threading
from pathlib import Path
from flows.guarding import leave, log_to, run_guarded
def command():
    {command}
leave(run_guarded(command))
"""


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("raise ValueError('one\\ntwo')", 1, "internal error: ValueError: one"),
        ("log_to(Path('/dev/full')); raise ValueError('one')", 1, "internal error: ValueError: one"),
        ("log_to(Path('/dev/null/log.txt'))", 20, "/dev/null/log.txt: the log cannot be written"),
        ("thread = threading.Thread(target=int, args='x'); thread.start(); thread.join(); 1 / 0", 1, "ZeroDivision"),
        ("raise OSError(28, 'No space left on device', 'there')", 20, "there: the disk is full"),
        ("raise KeyboardInterrupt", 130, "interrupted (SIGINT)"),
        ("raise GeneratorExit", 1, "internal error: GeneratorExit"),
    ],
)
def test_whatever_is_raised_is_one_line_where_no_log_can_be_written(command: str, code: int, words: str) -> None:
    script = GUARDED.format(command=command)
    environment = os.environ | {"TUNELINE_RUNS": "/dev/null/runs"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (code, 1), done.stderr
    assert words in done.stderr


def test_an_error_that_does_not_say_which_disk_is_full_is_completed(tmp_path: Path) -> None:
    script = GUARDED.format(command="raise OSError(28, 'No space left on device')")
    with small_disk(tmp_path / "runs", 1 << 20) as runs:
        fill(runs, 0)
        environment = os.environ | {"TUNELINE_RUNS": str(runs)}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stderr == f"tuneline: {runs}: the disk is full. Free some space and run it again.\n"
    assert done.returncode == 20


def test_what_a_library_does_at_the_end_does_not_hold_it_up_for_ever() -> None:
    """Were it waited for, the time limit of this test would end it."""
    command = "import atexit, flows.guarding as g; g._TIDYING_SECONDS = 0.2; atexit.register(threading.Event().wait)"
    script = GUARDED.format(command=f"{command}; raise KeyboardInterrupt")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_it_ends_changes_neither_its_word_nor_its_code(number: signal.Signals) -> None:
    command = f"import atexit, os; atexit.register(os.kill, os.getpid(), {number:d}); raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", GUARDED.format(command=command)], capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (130, 1), done.stderr


HUNG_UP = "import os, signal, time; os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.2)"


def test_a_terminal_that_is_closed_cancels_the_run() -> None:
    """Whoever runs the tests with nohup has closed the ears of all that they start."""
    command = [
        sys.executable,
        "-c",
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + GUARDED.format(command=HUNG_UP),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (143, 1), done.stderr


def test_a_run_that_was_started_with_nohup_outlives_the_terminal() -> None:
    command = ["nohup", sys.executable, "-c", GUARDED.format(command=HUNG_UP)]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0


def test_a_run_whose_log_cannot_be_written_says_so(world: Path) -> None:
    (world / "runs/reports/toy/log.txt").mkdir(parents=True)
    done = tuneline(world, "run", "toy.yaml")
    assert (done.returncode, len(done.stderr.splitlines())) == (20, 1), done.stderr
    assert "the log cannot be written" in done.stderr
