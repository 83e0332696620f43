"""One switch ends every gang of a flow. Sleeping processes stand for gangs: what counts is who is asked to end."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks.foundation.errors import CancelledRunError, DataError
from tasks.launch.gangs import GRACE_SECONDS, Gangs, current_gangs, gangs
from tasks.launch.launchers.local import LocalGang, LocalLauncher
from tests.launch.worlds import alive, job_in, pids_of


class Sleeper(LocalGang):
    """A gang of one sleeping process, which notes how it is cancelled."""

    def __init__(self, command: str = "sleep 600") -> None:
        super().__init__(subprocess.Popen(["sh", "-c", f"exec {command}"], start_new_session=True), "no mark")
        self.graces: list[float] = []

    def cancel(self, grace_seconds: float) -> None:
        self.graces.append(grace_seconds)
        super().cancel(grace_seconds)


@pytest.fixture
def three() -> Iterator[list[Sleeper]]:
    gangs = [Sleeper() for _ in range(3)]
    yield gangs
    for gang in gangs:
        gang.cancel(0)


def test_cancel_all_ends_every_gang_with_time_to_save_and_lets_no_new_one_start(three: list[Sleeper]) -> None:
    register = Gangs()
    with ExitStack() as held:
        for gang in three:
            held.enter_context(register.running(gang))
        register.check()
        register.cancel_all()

        assert [gang.poll() for gang in three] == [-15, -15, -15]
        assert [gang.graces[0] for gang in three] == [GRACE_SECONDS] * 3
        with pytest.raises(CancelledRunError, match="cancelled"):
            register.check()


def test_a_gang_that_was_being_started_when_the_flow_was_cancelled_does_not_run(three: list[Sleeper]) -> None:
    register = Gangs()
    register.check()
    register.cancel_all()

    with pytest.raises(CancelledRunError), register.running(three[0]):
        pytest.fail("it ran")
    assert three[0].poll() == -15


def test_gangs_are_ended_side_by_side() -> None:
    """Each needs a moment to save: one after the other they would take the sum of it."""
    register = Gangs()
    meeting = threading.Barrier(3, timeout=120)

    class Saving(Sleeper):
        def cancel(self, grace_seconds: float) -> None:
            if self.poll() is None:
                meeting.wait()
            super().cancel(grace_seconds)

    with ExitStack() as held:
        for gang in (Saving(), Saving(), Saving()):
            held.callback(LocalGang.cancel, gang, 0)
            held.enter_context(register.running(gang))
        register.cancel_all()
        assert meeting.n_waiting == 0 and not meeting.broken


def test_what_is_raised_while_a_gang_runs_leaves_no_rank(tmp_path: Path) -> None:
    gang = LocalLauncher().start(job_in(tmp_path, ranks=2, action="sleep"))
    (tmp_path / "go on").touch()
    with pytest.raises(DataError), Gangs().running(gang):
        pids = pids_of(tmp_path, ranks=2)
        raise DataError("the metrics file is broken")

    assert alive([gang.pid, *pids]) == []


def test_a_gang_that_ended_well_is_not_disturbed() -> None:
    gang = Sleeper("true")
    with Gangs().running(gang):
        while gang.poll() is None:
            time.sleep(0.01)

    assert gang.graces == []


def test_the_end_of_a_flow_ends_its_gangs(three: list[Sleeper]) -> None:
    with pytest.raises(KeyboardInterrupt), gangs() as register:
        assert current_gangs() is register
        held = register.running(three[0])
        held.__enter__()
        raise KeyboardInterrupt

    assert three[0].poll() == -15
    assert current_gangs() is not register
