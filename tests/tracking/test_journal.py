"""The journal survives its writers."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import threading
from pathlib import Path

import pytest

from tasks.foundation.errors import IntegrityError, ResourceError
from tasks.tracking import MetricPoint, Run, RunRef, create_run
from tasks.tracking.events import MetricsLogged, RunFinished, TagsSet
from tasks.tracking.journal import append, count_lines, journals, read_entries
from tests.tracking.kids import start, write_metrics

CHUNK = 1 << 20


@pytest.fixture
def ref(tmp_path: Path) -> RunRef:
    return create_run(tmp_path / "spool", name="a", experiment="e")


def tag(value: str) -> TagsSet:
    return TagsSet(at_ms=1, tags={"t": value})


def test_two_processes_append_to_one_journal_and_no_line_is_lost_or_mixed(ref: RunRef) -> None:
    writers = [start(write_metrics, ref, name, 300) for name in ("one", "two")]
    for writer in writers:
        writer.join(120)

    events = [entry.event for entry in read_entries(ref.journal, 0, CHUNK)[1:]]

    assert all(isinstance(event, MetricsLogged) for event in events)
    points = [point for event in events if isinstance(event, MetricsLogged) for point in event.points]
    for name in ("one", "two"):
        assert [point.step for point in points if point.name == name] == list(range(300))


def test_a_torn_last_line_is_invisible_and_cut_off_by_the_next_append(ref: RunRef) -> None:
    whole = ref.journal.read_bytes()
    with ref.journal.open("ab") as file:
        file.write(b'{"kind":"tags","tags":{"half' + b"x" * 10_000)

    assert len(read_entries(ref.journal, 0, CHUNK)) == 1
    append(ref.journal, [tag("next")], durable=True)

    assert ref.journal.read_bytes().startswith(whole)
    assert [entry.event for entry in read_entries(ref.journal, len(whole), CHUNK)] == [tag("next")]


def test_a_journal_that_is_one_torn_line_begins_anew(tmp_path: Path) -> None:
    journal = tmp_path / "k.jsonl"
    journal.write_bytes(b"x" * 5000)

    append(journal, [tag("first")], durable=True)

    assert [entry.event for entry in read_entries(journal, 0, CHUNK)] == [tag("first")]


def test_a_line_that_is_no_event_is_passed_on_as_it_is(ref: RunRef) -> None:
    start_of_line = ref.journal.stat().st_size
    with ref.journal.open("ab") as file:
        file.write(b'{"kind":"unheard of"}\n')

    (entry,) = read_entries(ref.journal, start_of_line, CHUNK)

    assert entry.event is None
    assert entry.line == b'{"kind":"unheard of"}\n'


def test_reading_in_small_chunks_gives_the_same_events(ref: RunRef) -> None:
    append(ref.journal, [tag("x" * length) for length in (1, 500, 5000, 3)], durable=True)
    at_once = read_entries(ref.journal, 0, CHUNK)

    offset, piece_by_piece = 0, []
    while entries := read_entries(ref.journal, offset, 64):
        piece_by_piece += entries
        offset = entries[-1].end

    assert piece_by_piece == at_once
    assert count_lines(ref.journal, at_once[0].end) == 4


def test_nan_and_infinities_survive_the_journal(ref: RunRef) -> None:
    values = {"nan": float("nan"), "up": float("inf"), "down": float("-inf")}
    points = tuple(MetricPoint(name=name, value=value, timestamp_ms=1) for name, value in values.items())
    append(ref.journal, [MetricsLogged(at_ms=1, points=points)], durable=True)

    event = read_entries(ref.journal, 0, CHUNK)[-1].event

    assert isinstance(event, MetricsLogged)
    assert [str(point.value) for point in event.points] == ["nan", "inf", "-inf"]


def test_a_full_disk_leaves_the_journal_as_it_was_and_says_so(ref: RunRef) -> None:
    before = ref.journal.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, limits[1]))
    try:
        with pytest.raises(ResourceError, match="cannot record the run"):
            append(ref.journal, [tag("x" * 5000)], durable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)

    assert ref.journal.read_bytes() == before


def test_an_append_waits_for_whoever_reads_or_repairs_the_journal(ref: RunRef) -> None:
    with ref.journal.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        writer = threading.Thread(target=append, args=(ref.journal, [tag("next")]), kwargs={"durable": False})
        writer.start()
        writer.join(0.2)
        assert count_lines(ref.journal, 0) == 1
    writer.join()

    assert count_lines(ref.journal, 0) == 2


def test_writing_to_a_deleted_journal_fails_and_makes_no_new_one(ref: RunRef) -> None:
    ref.journal.unlink()

    with pytest.raises(IntegrityError, match="journal is gone"):
        Run(ref).log_metrics({"loss": 1.0})

    assert not ref.journal.exists()


def test_what_was_refused_is_not_taken_for_a_journal(ref: RunRef) -> None:
    ref.journal.with_name(f"{ref.journal.stem}.rejected.jsonl").write_text("{}\n")

    assert journals(ref.journal.parent) == [ref.journal]


def test_events_that_cannot_be_measured_again_are_on_disk_before_the_call_returns(
    ref: RunRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(handle))

    Run(ref).log_metrics({"loss": 1.0})
    assert synced == []
    Run(ref).log_params({"a": 1})
    append(ref.journal, [RunFinished(at_ms=1, status="FAILED")], durable=True)
    assert len(synced) == 2
