"""Rows 15, 16, 19 to 21 and 32 to 34: hangs, full disks, folders that cannot be written, numbers that are none."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from benchmarks.control.crashes import judge
from benchmarks.control.stage import SAVE_STEPS, STEPS, Case, Stage
from benchmarks.findings import Finding, Verdict

_HANG_SECONDS = 60.0


def hangs(stage: Stage) -> Iterator[Finding]:
    """Rows 15 and 16 in one process."""
    for row, done, wound in (
        ("15", "a step that never ends", f"hang-at-step:{SAVE_STEPS + 5}"),
        ("16", "a batch that never comes", f"hang-in-loader:{SAVE_STEPS + 5}"),
    ):
        case = stage.case(f"row-{row}")
        attempt = case.run(wound, bound=_HANG_SECONDS)
        verdict: Verdict = "hangs" if attempt.code is None else "loud"
        yield Finding(name=row, done=done, saw=f"{attempt.ending}, and nobody watches it", verdict=verdict)


def full_disk(stage: Stage) -> Iterator[Finding]:
    """Row 19: a file system with room for one checkpoint and a half; then room is made and it is started again."""
    case = stage.case("row-19")
    one = sum(path.stat().st_size for path in (stage.undisturbed.output / f"checkpoint-{STEPS}").iterdir())
    done = "the disk is full in the second save; room is made, and the same command again"
    with _small_disk(case.output, int(1.5 * one)) as mounted:
        if not mounted:
            yield Finding(name="19", done=done, saw="no small file system can be made here", verdict="not applicable")
            return
        first = case.run()
        _mount("remount,size=512m", case.output)
        again = case.run(resume=True)
        verdict, words = judge(case) if again.code == 0 else ("loud", again.ending)
        saw = f"{first.ending}; again: {words}"
        yield Finding(name="19", done=done, saw=saw, verdict=verdict)


@contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    folder.mkdir()
    mounted = _mount(f"size={size}", folder)
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _mount(options: str, folder: Path) -> bool:
    """Only root may."""
    if os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def full_store(stage: Stage) -> Iterator[Finding]:
    """Row 20: no room for the record."""
    case = stage.case("row-20")
    with closing(sqlite3.connect(case.folder / "mlflow.db")) as store, store:
        store.execute("create table filler as select zeroblob(10000000)")  # larger than any file of the training
    attempt = case.run("file-limit:mlflow.db:8192")
    steps = case.logged_steps()
    lost = f"{steps} of {STEPS} losses are in MLflow"
    verdict: Verdict = "loud" if attempt.code else "silent" if steps < STEPS else "right"
    yield Finding(name="20", done="the MLflow store cannot grow", saw=f"{attempt.ending}; {lost}", verdict=verdict)


def unwritable(stage: Stage) -> Iterator[Finding]:
    """Row 21: /proc is a folder in which nobody can make another one."""
    case = stage.case("row-21")
    attempt = case.run(changes={"output": "/proc/out"})
    saw = f"{attempt.ending} after {attempt.seconds:.0f} s, before the model is loaded"
    yield Finding(name="21", done="an output folder that cannot be made", saw=saw, verdict="loud")


def not_finite(stage: Stage) -> Iterator[Finding]:
    """Rows 32 and 33."""
    case = stage.case("row-32")
    attempt = case.run(f"nan-at-step:{SAVE_STEPS + 5}")
    if attempt.code == 0 and not case.is_finite():
        verdict: Verdict = "silent"
        saw = "exit 0; the saved adapter and all checkpoints since hold NaN"
    else:
        verdict, saw = "loud", attempt.ending
    yield Finding(name="32", done="one loss is NaN", saw=saw, verdict=verdict)
    case = stage.case("row-33")
    attempt = case.run(changes={"learning-rate": "1000"})
    yield Finding(
        name="33",
        done="a learning rate of 1000",
        saw=f"{attempt.ending}; {_diverged(case)}" if attempt.code == 0 else attempt.ending,
        verdict="silent" if attempt.code == 0 else "loud",
    )


def _diverged(case: Case) -> str:
    losses = "select value from metrics where key = 'loss' order by step"
    first, last = case.ask(losses), case.ask(f"{losses} desc")
    holds = "numbers" if case.is_finite() else "NaN"
    return f"MLflow shows a loss that went from {first:.1f} to {last:.1f}, the saved adapter holds {holds}"


def no_accelerator(stage: Stage) -> Iterator[Finding]:
    """Row 34: only a machine that has one can lose it."""
    done = "an accelerator that is asked for is not there"
    if not torch.cuda.is_available():
        saw = "the script asks for none: it takes what is there, and trains on the CPU without a word; none is here"
        yield Finding(name="34", done=done, saw=saw, verdict="not applicable")
        return
    case = stage.case("row-34")
    attempt = case.run()
    yield Finding(name="34", done=done, saw=f"{attempt.ending}, on the CPU, no word", verdict="silent")
