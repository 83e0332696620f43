"""Order, retries, refusals and turns, with a server in memory that fails on demand."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.tracking import MetricPoint, Run, TrackingSettings, create_run, delivery
from tasks.tracking.cursor import Cursor, read_cursor, write_cursor
from tasks.tracking.journal import beside
from tasks.tracking.memory import MemorySink
from tasks.tracking.protocol import UnavailableError
from tasks.tracking.shipper import Shipper
from tests.launch.worlds import wait_until
from tests.tracking.kids import create_and_wait, start
from tests.tracking.test_owner import wait_for

SETTINGS = TrackingSettings(uri="http://u:canary@server:5000", flush_seconds=120)
IMPATIENT = TrackingSettings(uri="http://u:canary@server:5000", flush_seconds=0.01)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@contextmanager
def shipping(spool: Path, sink: MemorySink, settings: TrackingSettings = SETTINGS) -> Iterator[Shipper]:
    with Shipper(settings, spool, spool.parent, sink=sink) as shipper:
        yield shipper


class Outage:
    """A fault that makes every call fail while it lasts."""

    def __init__(self, moment: str = "before") -> None:
        self.lasts = True
        self.calls = 0
        self._moment = moment

    def __call__(self, method: str, moment: str) -> None:
        if self.lasts and moment == self._moment:
            self.calls += 1
            raise UnavailableError("connection to http://u:canary@server:5000 refused")


def points(count: int) -> list[MetricPoint]:
    return [MetricPoint(name="loss", value=1 / (step + 1), step=step, timestamp_ms=step) for step in range(count)]


def test_events_arrive_while_the_run_goes_on(spool: Path) -> None:
    sink = MemorySink()
    with shipping(spool, sink) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        Run(ref).log_metrics({"loss": 1.0})

        assert shipper.flush(120) == 0
        assert sink.named("a").series("loss") == [(0, 1.0)]
        Run(ref).log_metrics({"loss": 0.5}, step=1)
        assert shipper.flush(120) == 0
        assert sink.named("a").series("loss") == [(0, 1.0), (1, 0.5)]


def test_a_child_comes_after_its_parent_however_their_journals_are_called(spool: Path) -> None:
    parent = create_run(spool, name="parent", experiment="e")
    children = [create_run(spool, name=f"child{index}", experiment="e", parent=parent) for index in range(8)]
    sink = MemorySink()
    with shipping(spool, sink) as shipper:
        assert shipper.flush(120) == 0

        for child in children:
            assert sink.named(child.name).new.parent_run_id == shipper.run_id(parent)


def test_a_child_whose_parent_is_gone_is_recorded_without_it_and_says_so(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent = create_run(spool, name="parent", experiment="e")
    create_run(spool, name="child", experiment="e", parent=parent)
    parent.journal.unlink()
    sink = MemorySink()
    with shipping(spool, sink):
        pass

    assert sink.named("child").new.parent_run_id is None
    assert "the parent of run child is not on this server" in caplog.text


def test_an_outage_loses_and_doubles_nothing(spool: Path) -> None:
    outage = Outage()
    sink = MemorySink(outage)
    with shipping(spool, sink) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        Run(ref).log_metric_series(points(2500))
        Run(ref).finish("FINISHED")
        while outage.calls < 2:
            assert shipper.flush(0.1) == 5
        outage.lasts = False
        assert shipper.flush(120) == 0

    assert list(sink.named("a").metrics.values()) == points(2500)
    assert sink.named("a").status == "FINISHED"


def test_lost_answers_double_nothing(spool: Path) -> None:
    outage = Outage("after")
    sink = MemorySink(outage)
    with shipping(spool, sink) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        Run(ref).log_metric_series(points(1500))
        while outage.calls < 2:
            shipper.flush(0.1)
        outage.lasts = False
        assert shipper.flush(120) == 0

    assert len(sink.runs) == 1
    assert list(sink.named("a").metrics.values()) == points(1500)


def test_what_an_outage_left_is_sent_at_the_next_start(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    with shipping(spool, MemorySink(Outage()), IMPATIENT):
        ref = create_run(spool, name="a", experiment="e")
        Run(ref).log_text("kept", "a.txt")
        Run(ref).finish("FINISHED")
    assert "3 events could not be sent to http://***@server:5000" in caplog.text

    sink = MemorySink()
    with shipping(spool, sink):
        pass

    assert sink.named("a").artifacts == {"a.txt": b"kept"}
    assert sink.named("a").status == "FINISHED"


def test_an_outage_is_reported_once_and_so_is_its_end(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outage = Outage()
    with shipping(spool, MemorySink(outage)) as shipper:
        create_run(spool, name="a", experiment="e")
        while outage.calls < 4:
            shipper.flush(0.05)
        outage.lasts = False
        shipper.flush(120)
        wait_until(lambda: "reached again" in caplog.text)

    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    assert len([text for text in said if "not reached" in text]) == 1
    assert len([text for text in said if "reached again" in text]) == 1
    assert "canary" not in caplog.text


def test_one_journal_that_the_server_cannot_take_does_not_hold_up_the_others(spool: Path) -> None:
    def fault(method: str, moment: str) -> None:
        if method == "log_artifact":
            raise UnavailableError("507 insufficient storage")

    stuck = [create_run(spool, name=f"stuck{index}", experiment="e") for index in range(3)]
    for ref in stuck:
        Run(ref).log_text("x", "x.txt")
    fine = [create_run(spool, name=f"fine{index}", experiment="e") for index in range(3)]
    sink = MemorySink(fault)
    with shipping(spool, sink, IMPATIENT) as shipper:
        wait_until(lambda: shipper.flush(0.2) > 0 and all(shipper.run_id(ref) for ref in fine))
    assert all(not sink.named(ref.name).artifacts for ref in stuck)


def test_a_journal_waits_for_its_own_server(spool: Path) -> None:
    with shipping(spool, MemorySink(Outage()), IMPATIENT) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        while read_cursor(ref.journal) is None:
            shipper.flush(0.05)
    elsewhere, own = MemorySink(), MemorySink()

    with shipping(spool, elsewhere, TrackingSettings(uri="http://other:5000", flush_seconds=120)) as shipper:
        assert shipper.flush(120) == 0
    with shipping(spool, own, TrackingSettings(uri="http://u:newpassword@server:5000", flush_seconds=120)):
        pass

    assert not elsewhere.runs
    assert own.named("a")


def test_a_run_of_another_living_process_is_left_to_its_own_shipper(tmp_path: Path, spool: Path) -> None:
    owner = start(create_and_wait, spool, tmp_path / "told")
    sink = MemorySink()
    try:
        wait_for(tmp_path / "told")
        with shipping(spool, sink) as shipper:
            mine = create_run(spool, name="mine", experiment="e")
            for step in range(3):
                Run(mine).log_metrics({"loss": 1.0}, step=step)
                assert shipper.flush(120) == 0
            assert [run.new.name for run in sink.runs.values()] == ["mine"]
    finally:
        owner.kill()
        owner.join()

    with shipping(spool, sink):
        pass
    assert sink.named("orphan").status == "KILLED"


def test_an_artifact_stays_in_the_spool_until_its_sending_is_committed(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = create_run(spool, name="a", experiment="e")
    Run(ref).log_text("x", "x.txt")
    uncommitted: list[Cursor] = []

    def fail_once(journal: Path, cursor: Cursor) -> None:
        if cursor.run_id and len(sink.named("a").artifacts) == 1 and not uncommitted:
            uncommitted.append(cursor)
            raise OSError("the disk is full")
        write_cursor(journal, cursor)

    monkeypatch.setattr(delivery, "write_cursor", fail_once)
    sink = MemorySink()
    with shipping(spool, sink):
        pass

    assert uncommitted
    assert sink.named("a").artifacts == {"x.txt": b"x"}
    assert not beside(ref.journal, ".rejected.jsonl").exists()


def test_two_shippers_on_one_spool_take_turns(spool: Path) -> None:
    inside = threading.Lock()
    clashes: list[str] = []

    def fault(method: str, moment: str) -> None:
        if moment == "after":
            inside.release()
        elif not inside.acquire(blocking=False):
            clashes.append(method)
        time.sleep(0.002)

    sink = MemorySink(fault)
    with shipping(spool, sink) as one, shipping(spool, sink) as two:
        ref = create_run(spool, name="a", experiment="e")
        for step in range(50):
            Run(ref).log_text(str(step), f"{step}.txt")
        flushes = [threading.Thread(target=shipper.flush, args=(30,)) for shipper in (one, two)]
        for flush in flushes:
            flush.start()
        for flush in flushes:
            flush.join()

    assert not clashes
    assert len(sink.runs) == 1
    assert len(sink.named("a").artifacts) == 50


def test_a_bug_in_a_sink_does_not_end_the_shipper(spool: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    def fault(method: str, moment: str) -> None:
        seen.append(method)
        if len(seen) == 1:
            raise ZeroDivisionError

    sink = MemorySink(fault)
    with shipping(spool, sink):
        create_run(spool, name="a", experiment="e")

    assert sink.named("a")
    assert "the tracking shipper failed" in caplog.text


class Impatient(Shipper):
    """Waits for one event only, however long that takes: as if its time were over then, on any machine."""

    def flush(self, seconds: float) -> int:
        before = left = super().flush(0)
        while left == before > 0:
            left = super().flush(0.05)
        return left


def test_a_backlog_that_a_working_server_takes_slowly_is_sent_to_the_end(spool: Path) -> None:
    ref = create_run(spool, name="a", experiment="e")
    for step in range(30):
        Run(ref).log_text(str(step), f"{step}.txt")
    sink = MemorySink(lambda method, moment: time.sleep(0.01))
    with Impatient(SETTINGS, spool, spool.parent, sink=sink):
        pass

    assert len(sink.named("a").artifacts) == 30


@pytest.mark.parametrize("whose", ["of the spool", "of the database"])
def test_on_a_full_disk_nobody_waits_for_a_server(spool: Path, monkeypatch: pytest.MonkeyPatch, whose: str) -> None:
    """Were it waited for, the time limit of this test would end it."""

    def full(*_: object) -> None:
        if whose == "of the spool":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UnavailableError("(sqlite3.OperationalError) database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "write_cursor", full)
        with shipping(spool, MemorySink(), SETTINGS.model_copy(update={"flush_seconds": 86_400.0})) as shipper:
            ref = create_run(spool, name="a", experiment="e")
            Run(ref).finish("FINISHED")
            assert shipper.flush(86_400) == 2
        assert shipper.unsent == 2
    sink = MemorySink()
    with shipping(spool, sink):
        pass
    assert sink.named("a").status == "FINISHED"
