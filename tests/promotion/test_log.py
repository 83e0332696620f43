"""The promotion log is append-only: what was changed behind its back is found."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.promotion.entries import Draft, champions
from tasks.promotion.log import Log, acting, nonce, stamp
from tasks.registry.ledger import RUNS, Ledger
from tasks.tracking import TrackingSettings
from tests.promotion.worlds import Shelf


@pytest.fixture
def own(tmp_path: Path) -> Shelf:
    """A database of the test's own, which it may spoil."""
    shelf = Shelf(TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db"), "faq", tmp_path)
    shelf.add_versions(3)
    for version, expected in ((1, None), (2, 1), (3, 2)):
        shelf.move(version, expected)
    return shelf


def spoil(shelf: Shelf, statement: str, *values: str) -> None:
    with sqlite3.connect(shelf.tracking.uri.removeprefix("sqlite:///")) as connection:
        assert connection.execute(statement, values).rowcount > 0


def note(model: str, reason: str = "") -> Draft:
    return Draft(action="requested", model=model, author=acting(), reason=reason, at=stamp(), nonce=nonce())


def test_an_entry_is_written_once(shelf: Shelf) -> None:
    ledger = Ledger(shelf.registry, shelf.name)
    assert ledger.append(1, "first")
    assert not ledger.append(1, "another")
    assert ledger.append(1, "first"), "an answer that was lost is asked for again"
    assert ledger.read() == ["first"]


def test_the_page_of_mlflow_shows_the_log_as_a_run(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    experiment = shelf.client.get_experiment_by_name(RUNS)
    runs = shelf.client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` = '{shelf.name}'")
    assert [sorted(run.data.params) for run in runs] == [["entry.000001", "entry.000002"]]
    assert "`tuneline history` reads it" in runs[0].data.tags["mlflow.note.content"]


def test_an_entry_that_was_changed_is_found(own: Shelf) -> None:
    spoil(own, "update params set value = replace(value, 'a test', 'another') where key = 'entry.000003'")
    with pytest.raises(IntegrityError, match="entry 4 does not follow entry 3"):
        Log(Ledger(own.registry, "faq"), "faq", own.folder / "elsewhere").read()


def test_an_entry_that_was_taken_out_is_found(own: Shelf) -> None:
    spoil(own, "delete from params where key = 'entry.000003'")
    with pytest.raises(IntegrityError, match="an entry between others is missing"):
        own.log.read()


@pytest.mark.parametrize("key", ["entry.000005", "entry.000006"])
def test_a_log_that_was_cut_is_found_by_a_machine_that_has_seen_more_of_it(own: Shelf, key: str) -> None:
    spoil(own, "delete from params where key >= ?", key)
    with pytest.raises(IntegrityError, match="was rewritten: entry 6 is not what it was"):
        own.log.read()


def test_a_log_whose_run_was_deleted_is_not_taken_for_an_empty_one(own: Shelf) -> None:
    experiment = own.client.get_experiment_by_name(RUNS)
    own.client.delete_run(own.client.search_runs([experiment.experiment_id])[0].info.run_id)
    with pytest.raises(IntegrityError, match="is deleted"):
        own.another().move(1, expected=3)


def test_a_log_whose_experiment_was_deleted_is_not_taken_for_an_empty_one(own: Shelf) -> None:
    own.client.delete_experiment(own.client.get_experiment_by_name(f"{RUNS}: faq").experiment_id)
    with pytest.raises(IntegrityError, match="was deleted"):
        own.another().log.read()


def test_an_entry_longer_than_mlflow_keeps_is_refused_before_it_is_cut(shelf: Shelf) -> None:
    with pytest.raises(ConfigError, match="does not fit into the promotion log"):
        Ledger(shelf.registry, shelf.name).append(1, "x" * 6000)


def test_two_that_begin_a_log_at_once_agree_on_one(shelf: Shelf) -> None:
    """The second one finds no log, and then that somebody else has begun one meanwhile."""
    late = Ledger(shelf.registry, shelf.name)
    assert late.read() == []
    assert Ledger(shelf.registry, shelf.name).append(1, "theirs")
    assert late._make() == Ledger(shelf.registry, shelf.name)._run_id()
    assert late.read() == ["theirs"]


def test_notes_between_a_change_and_its_end_disturb_neither(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    shelf.log.append(note(shelf.name, "please"))
    shelf.move(2, expected=1)
    assert champions(shelf.log.read()) == [1, 2]


def test_a_rollback_goes_further_back_each_time_and_never_to_what_was_found_bad(own: Shelf) -> None:
    assert champions(own.log.read()) == [1, 2, 3]
    own.move(2, expected=3, action="rollback", previous=1)
    assert champions(own.log.read()) == [1, 2]
    own.move(3, expected=2)
    assert champions(own.log.read()) == [1, 2, 3]
