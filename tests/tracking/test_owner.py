"""A run whose owner died is closed; any other is left alone."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tasks.foundation.errors import ConflictError
from tasks.tracking import Run, RunRef, create_run, hold, owned_here, owner, reconcile
from tasks.tracking.events import RunFinished
from tasks.tracking.journal import beside, read_entries
from tests.tracking.kids import create_and_wait, create_fork_and_wait, start


def statuses(ref: RunRef) -> list[str]:
    events = [entry.event for entry in read_entries(ref.journal, 0, 1 << 20)]
    return [event.status for event in events if isinstance(event, RunFinished)]


def wait_for(path: Path) -> str:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    return path.read_text()


def test_a_run_is_closed_as_killed_after_its_owner_was_and_not_before(tmp_path: Path) -> None:
    owner = start(create_and_wait, tmp_path / "spool", tmp_path / "told")
    ref = RunRef.model_validate_json(wait_for(tmp_path / "told"))

    assert reconcile(tmp_path / "spool") == []
    owner.kill()
    owner.join()
    (closed,) = reconcile(tmp_path / "spool")

    assert closed.journal == ref.journal
    assert statuses(ref) == ["KILLED"]
    assert reconcile(tmp_path / "spool") == []


def test_the_end_of_a_killed_run_is_its_last_sign_of_life(tmp_path: Path) -> None:
    owner = start(create_and_wait, tmp_path / "spool", tmp_path / "told")
    ref = RunRef.model_validate_json(wait_for(tmp_path / "told"))
    owner.kill()
    owner.join()
    reconcile(tmp_path / "spool")

    *_, last, end = (entry.event for entry in read_entries(ref.journal, 0, 1 << 20))

    assert last and end and end.at_ms == last.at_ms


def test_a_forked_child_does_not_keep_its_dead_parents_run_open(tmp_path: Path) -> None:
    owner = start(create_fork_and_wait, tmp_path / "spool", tmp_path / "told")
    child, _ = wait_for(tmp_path / "told").split("\n")
    owner.kill()
    owner.join()
    try:
        assert len(reconcile(tmp_path / "spool")) == 1
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_what_another_living_process_owns_cannot_be_held_too_and_the_holder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(create_and_wait, tmp_path / "spool", tmp_path / "told")
    ref = RunRef.model_validate_json(wait_for(tmp_path / "told"))
    monkeypatch.setattr(owner, "_GLANCE_SECONDS", 0.1)
    with pytest.raises(ConflictError, match=f"pid {first.pid} on {socket.gethostname()} runs this very run"):
        hold(ref.journal)
    first.kill()
    first.join()
    hold(ref.journal)
    assert owned_here(ref.journal)


def test_a_run_of_this_process_is_left_alone_until_it_finishes_and_after(tmp_path: Path) -> None:
    ref = create_run(tmp_path, name="mine", experiment="e")
    assert reconcile(tmp_path) == []

    Run(ref).finish("FINISHED")

    assert reconcile(tmp_path) == []
    assert statuses(ref) == ["FINISHED"]
    assert not beside(ref.journal, ".owner").exists()


def test_an_owner_that_died_right_after_the_end_was_written_changes_nothing(tmp_path: Path) -> None:
    ref = create_run(tmp_path, name="mine", experiment="e")
    Run(ref).finish("FAILED")
    beside(ref.journal, ".owner").touch()

    assert reconcile(tmp_path) == []
    assert statuses(ref) == ["FAILED"]
    assert not beside(ref.journal, ".owner").exists()


def test_an_owner_that_died_before_its_run_began_leaves_no_run(tmp_path: Path) -> None:
    (tmp_path / "feed.owner").touch()

    assert reconcile(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_has_opened_its_file_and_not_yet_locked_it_lives(tmp_path: Path) -> None:
    note = tmp_path / "feed.owner"
    with note.open("w") as opened:
        locking = threading.Timer(0.2, fcntl.flock, [opened, fcntl.LOCK_EX])
        locking.start()
        with owner.inherited(note) as ours:
            assert not ours
        locking.join()
    assert note.exists()


def test_a_torn_last_line_does_not_keep_a_run_from_being_closed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner = start(create_and_wait, tmp_path / "spool", tmp_path / "told")
    ref = RunRef.model_validate_json(wait_for(tmp_path / "told"))
    owner.kill()
    owner.join()
    with ref.journal.open("ab") as file:
        file.write(b'{"kind":"metr')

    reconcile(tmp_path / "spool")

    assert statuses(ref) == ["KILLED"]
    assert "orphan was killed" in caplog.text


def test_a_run_of_another_host_that_shares_the_spool_is_closed_only_when_somebody_says_so(tmp_path: Path) -> None:
    """On some file systems its lock cannot be seen from here."""
    owner = start(create_and_wait, tmp_path / "spool", tmp_path / "told")
    ref = RunRef.model_validate_json(wait_for(tmp_path / "told"))
    owner.kill()
    owner.join()
    held = beside(ref.journal, ".owner")
    assert held.read_text() == f"{owner.pid}@{held.read_text().split('@')[1]}@{socket.gethostname()}"
    held.write_text("1@2@elsewhere")

    assert reconcile(tmp_path / "spool") == []
    assert statuses(ref) == [] and held.exists()
    assert len(reconcile(tmp_path / "spool", all_hosts=True)) == 1
    assert statuses(ref) == ["KILLED"] and not held.exists()
