"""A gang is judged by its progress: what counts as silence, and for how long each phase may be silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.launch import StallSettings
from tasks.launch.protocol import Gang
from tasks.training.hanging import HangWatch, Stall, hang_error
from tasks.training.pulse import Pulse, forget_beats, read_beats, say_ended, stacks_file
from tests.launch.worlds import wait_until

LIMITS = StallSettings(loading=30, training=10, evaluating=20, saving=40, finishing=50)


class Clock:
    """Moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A gang of some ranks whose signs the test gives."""

    def __init__(self, work: Path, ranks: int) -> None:
        self.clock = Clock()
        self.ranks = [Pulse(work, rank) for rank in range(ranks)]
        self.watch = HangWatch(work, ranks, LIMITS, self.clock)
        self.watch.look()

    def pass_by(self, seconds: int, *, waiting: bool = False) -> Stall | None:
        """Time goes by in looks of a second."""
        for _ in range(seconds):
            self.clock.now += 1
            if stall := self.watch.look(waiting=waiting):
                return stall
        return None


def training(work: Path, ranks: int = 2) -> World:
    world = World(work, ranks)
    for pulse in world.ranks:
        pulse.enter("training")
    assert world.pass_by(1) is None
    return world


def test_a_rank_that_stays_silent_for_longer_than_its_phase_allows_hangs(tmp_path: Path) -> None:
    world = training(tmp_path)
    assert world.pass_by(10) is None
    stall = world.pass_by(1)
    assert stall and (stall.phase, stall.limit, stall.seconds) == ("training", 10, {0: 11.0, 1: 11.0})


def test_each_sign_begins_the_time_anew(tmp_path: Path) -> None:
    world = training(tmp_path)
    for _ in range(5):
        assert world.pass_by(9) is None
        for pulse in world.ranks:
            pulse.beat()
    assert world.pass_by(10) is None


@pytest.mark.parametrize("phase", ["loading", "training", "evaluating", "saving", "finishing"])
def test_every_phase_has_a_limit_of_its_own(tmp_path: Path, phase: str) -> None:
    world = World(tmp_path, 1)
    world.ranks[0].enter(phase)  # type: ignore[arg-type]
    limit = int(getattr(LIMITS, phase))
    assert world.pass_by(limit + 1) is None
    assert world.pass_by(1) is not None


def test_one_silent_rank_is_enough_though_the_others_get_on(tmp_path: Path) -> None:
    world = training(tmp_path)
    for step in range(10):
        world.ranks[0].beat(step)
        assert world.pass_by(1) is None
    world.ranks[0].beat(10)
    stall = world.pass_by(1)
    assert stall and stall.behind == [1]


def test_a_rank_that_gave_no_sign_at_all_is_loading(tmp_path: Path) -> None:
    watch = HangWatch(tmp_path, 2, LIMITS, clock := Clock())
    for _ in range(31):
        assert watch.look() is None
        clock.now += 1
    stall = watch.look()
    assert stall and (stall.phase, stall.behind) == ("loading", [0, 1])


def test_the_time_in_a_queue_does_not_count(tmp_path: Path) -> None:
    world = training(tmp_path)
    assert world.pass_by(500, waiting=True) is None
    assert world.pass_by(1) is None
    world.ranks[0].beat()
    world.ranks[1].beat()
    assert world.pass_by(11) is None
    assert world.pass_by(1) is not None


@pytest.mark.parametrize("phase", ["training", "ended"])
def test_a_gang_that_comes_out_of_the_queue_loads_again_whatever_its_ranks_did_before(
    tmp_path: Path, phase: str
) -> None:
    world = training(tmp_path)
    for pulse in world.ranks:
        pulse.enter(phase)  # type: ignore[arg-type]
    assert world.pass_by(5) is None
    assert world.pass_by(3, waiting=True) is None
    assert world.pass_by(30) is None
    stall = world.pass_by(1)
    assert stall and (stall.phase, stall.limit, stall.behind) == ("loading", 30, [0, 1])


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_row_43_a_clock_that_jumps_or_a_watcher_that_was_asleep_is_no_hang(tmp_path: Path, jump: float) -> None:
    world = training(tmp_path)
    world.clock.now += jump
    assert world.watch.look() is None
    assert world.pass_by(4) is None


def test_a_rank_that_has_ended_is_not_waited_for_unless_all_have(tmp_path: Path) -> None:
    world = training(tmp_path)
    say_ended(tmp_path, 1)
    for step in range(60):
        world.ranks[0].beat(step)
        assert world.pass_by(1) is None
    say_ended(tmp_path, 0)
    assert world.pass_by(50) is None
    assert world.pass_by(1) is not None


def test_signs_of_an_earlier_attempt_are_forgotten(tmp_path: Path) -> None:
    Pulse(tmp_path, 0).beat(7)
    forget_beats(tmp_path)
    assert read_beats(tmp_path) == []


def test_a_sign_is_written_in_place_and_never_half_read(tmp_path: Path) -> None:
    pulse = Pulse(tmp_path, 0)
    path = tmp_path / "ranks" / "0.json"
    inode = path.stat().st_ino
    for step in (1, 10**12, 2):
        pulse.beat(step)
        assert read_beats(tmp_path)[0].step == step
    assert (path.stat().st_ino, path.stat().st_size) == (inode, 512)


SLEEPER = """
import sys, time
from pathlib import Path
from tasks.training.pulse import Pulse, answer_with_stacks
work, rank = Path(sys.argv[1]), int(sys.argv[2])
answer_with_stacks(work, rank)
pulse = Pulse(work, rank)
pulse.enter("training")
pulse.beat(3)
def waiting_for_godot():
    time.sleep(1000)
waiting_for_godot()
"""


class Processes:
    """As much of a gang as the stacks need."""

    def __init__(self, pids: list[int]) -> None:
        self.pids = pids

    def dump_stacks(self) -> None:
        for pid in self.pids:
            os.kill(pid, 10)


def test_the_error_names_rank_place_and_the_way_on_and_all_stacks_are_in_the_log(tmp_path: Path) -> None:
    sleepers = [subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path), str(rank)]) for rank in (0, 1)]
    try:
        wait_until(lambda: [beat.step for beat in read_beats(tmp_path)] == [3, 3])
        beats = {beat.rank: beat for beat in read_beats(tmp_path)}
        beats[0] = beats[0].model_copy(update={"step": 4})
        stall = Stall(beats=dict(beats), seconds={0: 12.0, 1: 12.0}, phase="training", limit=10)
        gang: Gang = Processes([sleeper.pid for sleeper in sleepers])  # type: ignore[assignment]
        error = hang_error(stall, gang, tmp_path, newest=2)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    assert error.exit_code == 31
    assert str(error).startswith(
        f"{tmp_path / 'log.txt'}: no progress for 12 s while training (10 s are allowed): rank 1"
    )
    assert "after step 3 in <string>:11 waiting_for_godot" in str(error)
    assert "go on from step 2" in str(error)
    assert "distributed.stall_seconds.training" in error.fix, "a slow disk is no hang"
    text = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert text.count("--- stacks of rank") == text.count("in waiting_for_godot") == 2


def test_a_rank_that_does_not_answer_is_the_one_that_is_named(tmp_path: Path) -> None:
    for rank in (0, 1):
        Pulse(tmp_path, rank).enter("training")
    stacks_file(tmp_path, 0).write_text('Thread 1 (most recent call first):\n  File "a.py", line 1 in f\n')
    beats = {beat.rank: beat for beat in read_beats(tmp_path)}
    stall = Stall(beats=dict(beats), seconds={0: 11.0, 1: 11.0}, phase="training", limit=10)
    error = hang_error(stall, Processes([]), tmp_path, newest=None)  # type: ignore[arg-type]
    assert "rank 1" in error.what
    assert "which does not answer" in error.what
    assert "rank 0" not in error.what
    assert "there is no checkpoint yet" in error.fix
