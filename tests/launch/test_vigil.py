"""A process that does nothing is found, one that works is left alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tasks.foundation.errors import HangError
from tasks.launch import StallSettings
from tasks.launch.children import Children
from tasks.launch.vigil import Vigil
from tests.launch import functions

STALL = StallSettings(loading=20.0, evaluating=10.0)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def reaches(self, moment: float, vigil: Vigil) -> bool:
        """Look on the way, as the one who waits for a child does; whether the silence is too long in the end."""
        while self.now < moment:
            self.now = min(self.now + 5.0, moment)
            over = vigil.is_over()
        return over


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vigil(clock: Clock) -> Vigil:
    """Watches this very process, which works only where a test does."""
    return Vigil(psutil.Process(), STALL, clock)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Children]:
    pool = Children(1, tmp_path / "children.log", StallSettings(loading=2.0))
    pool.run(functions.pid)  # it has started
    yield pool
    pool.close()


def compute(seconds: float) -> None:
    """Use so much processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_function_that_only_sleeps_hangs_its_stacks_are_in_the_log_and_the_next_call_works(
    pool: Children, tmp_path: Path
) -> None:
    with pytest.raises(HangError, match=r"say_and_sleep has not got on for 2 s.*stall_seconds\.loading") as caught:
        pool.run(functions.say_and_sleep, tmp_path / "here")
    assert caught.value.exit_code == 31
    assert "in say_and_sleep" in (tmp_path / "children.log").read_text()
    assert pool.run(functions.add, 1) == 2


def test_silence_is_over_the_limit_only_after_the_limit(vigil: Vigil, clock: Clock) -> None:
    assert not clock.reaches(19.0, vigil)
    assert clock.reaches(21.0, vigil)


def test_row_43_a_pipeline_that_was_stopped_for_hours_takes_nobody_for_hung(vigil: Vigil, clock: Clock) -> None:
    """Ctrl-Z, and `fg` after lunch: the child was stopped too."""
    clock.now = 86_400.0
    assert not vigil.is_over()
    assert not clock.reaches(86_415.0, vigil)
    assert clock.reaches(86_416.0, vigil)


def test_who_computes_in_silence_is_left_alone(vigil: Vigil, clock: Clock) -> None:
    assert not clock.reaches(20.0, vigil)
    compute(0.3)
    assert not clock.reaches(21.0, vigil)
    assert clock.reaches(42.0, vigil), "what was computed once is no sign for ever"


def test_who_reads_and_writes_in_silence_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    vigil = Vigil(psutil.Process(), StallSettings(loading=40.0), clock)
    assert not clock.reaches(40.0, vigil)
    (tmp_path / "file").write_bytes(bytes(2 << 20))
    assert not clock.reaches(41.0, vigil)
    assert clock.reaches(82.0, vigil)


def test_what_a_grandchild_computes_counts(clock: Clock) -> None:
    context = multiprocessing.get_context("fork")
    begin, done = context.Event(), context.Event()

    def work() -> None:
        begin.wait()
        compute(0.3)
        done.set()
        time.sleep(600)

    child = context.Process(target=work, daemon=True)
    child.start()
    try:
        vigil = Vigil(psutil.Process(), StallSettings(loading=10.0), clock)
        assert clock.reaches(11.0, vigil)
        begin.set()
        done.wait()
        assert not vigil.is_over()
    finally:
        child.kill()
        child.join()


def test_what_a_grandchild_computed_before_it_ended_is_not_missed_afterwards(clock: Clock) -> None:
    context = multiprocessing.get_context("fork")
    begin, end = context.Event(), context.Event()

    def work() -> None:
        begin.wait()
        compute(1.0)
        end.set()
        time.sleep(600)

    child = context.Process(target=work, daemon=True)
    child.start()
    vigil = Vigil(psutil.Process(), StallSettings(loading=10.0), clock)
    begin.set()
    end.wait()
    assert not vigil.is_over()
    child.kill()
    child.join()
    assert not clock.reaches(10.0, vigil)
    compute(0.3)
    assert not clock.reaches(11.0, vigil)


def test_after_its_first_report_a_function_is_judged_by_its_reports_alone(vigil: Vigil, clock: Clock) -> None:
    vigil.reported()
    assert not clock.reaches(9.0, vigil)
    vigil.reported()
    assert not clock.reaches(18.0, vigil)
    compute(0.3)
    assert clock.reaches(20.0, vigil)
    assert (vigil.limit_seconds, vigil.setting) == (10.0, "distributed.stall_seconds.evaluating")
