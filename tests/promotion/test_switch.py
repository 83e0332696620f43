"""The champion moves one change at a time, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tasks.foundation import faults
from tasks.foundation.errors import ConflictError, DependencyError
from tasks.launch.ownership import Owner
from tasks.promotion import switch as switching
from tasks.promotion.entries import champions, finished_changes, open_change
from tasks.promotion.switch import Switch
from tasks.tracking import TrackingSettings
from tests.promotion.worlds import Shelf
from tests.tracking.conftest import Server, empty_database, server

__all__ = ["empty_database", "server"]  # fixtures

SITES = ("promote.previous", "promote.champion", "promote.done")


def test_the_first_promotion_sets_the_champion_and_leaves_no_previous(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    assert shelf.aliases() == (1, None)
    assert shelf.actions() == ["promote", "done"]


def test_a_second_one_keeps_the_old_champion_as_previous(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    shelf.move(2, expected=1)
    assert shelf.aliases() == (2, 1)


def test_a_change_that_was_decided_on_another_champion_changes_nothing(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    with pytest.raises(ConflictError, match="decided on no champion, but version 1 is its champion now"):
        shelf.move(2, expected=None)
    assert (shelf.aliases(), shelf.actions()) == ((1, None), ["promote", "done"])


@pytest.mark.parametrize("site", SITES)
def test_a_failure_in_between_puts_the_old_aliases_back(
    shelf: Shelf, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.move(1, expected=None)
    shelf.move(2, expected=1)
    monkeypatch.setenv(faults.VARIABLE, f"{site}:1:error")
    faults.arm()
    try:
        with pytest.raises(RuntimeError, match="a fault was asked for"):
            shelf.move(3, expected=2)
    finally:
        monkeypatch.delenv(faults.VARIABLE)
        faults.arm()
    assert (shelf.aliases(), shelf.actions()[-2:]) == ((2, 1), ["promote", "undone"])


@pytest.mark.parametrize("site", SITES)
def test_row_50_what_a_killed_process_left_half_done_is_undone_by_the_next(shelf: Shelf, site: str) -> None:
    shelf.move(1, expected=None)
    assert killed_at(site, shelf, 2, 1) == -signal.SIGKILL
    assert open_change(shelf.log.read()) is not None
    shelf.another().move(3, expected=1)
    assert shelf.aliases() == (3, 1)
    assert shelf.actions() == ["promote", "done", "promote", "recover", "done", "promote", "done"]


@pytest.mark.parametrize("site", ["promote.previous", "promote.champion"])
def test_a_recovery_that_is_killed_too_is_taken_over_and_still_ends_where_it_began(shelf: Shelf, site: str) -> None:
    shelf.move(1, expected=None)
    assert killed_at("promote.done", shelf, 2, 1) == -signal.SIGKILL
    assert killed_at(site, shelf, 3, 1) == -signal.SIGKILL
    assert shelf.actions()[-1] == "recover"
    shelf.another().move(3, expected=1)
    assert (shelf.aliases(), open_change(shelf.log.read())) == ((3, 1), None)


def killed_at(site: str, shelf: Shelf, version: int, expected: int | None) -> int | None:
    """The exit code of a process that is killed at a site while it promotes."""
    process = multiprocessing.get_context("fork").Process(target=_die_at, args=(site, shelf, version, expected))
    process.start()
    process.join(60)
    return process.exitcode


def _die_at(site: str, shelf: Shelf, version: int, expected: int | None) -> None:
    os.environ[faults.VARIABLE] = f"{site}:1:kill"
    faults.arm()
    fresh = Shelf(shelf.tracking, shelf.name, shelf.folder)
    fresh.move(version, expected=expected)


def test_a_change_of_another_host_is_waited_for_as_long_as_its_lease_lasts(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of a process on another host, so time must tell; here it is told by a clock of the test."""
    shelf.move(1, expected=None)
    elsewhere = Owner(pid=1, start="1", host="elsewhere")
    monkeypatch.setattr("tasks.promotion.log.this_process", lambda: elsewhere)
    begun = shelf.asked(2, expected=1).draft.model_copy(update={"before": shelf.model.standing()})
    shelf.log.append(begun)
    monkeypatch.undo()
    slept: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += 30.0

    Switch(shelf.model, shelf.log, clock=lambda: now[0], sleep=sleep).change(shelf.asked(3, expected=1))
    assert switching.LEASE_SECONDS <= 30.0 * len(slept) < switching.LEASE_SECONDS + 60
    assert shelf.aliases() == (3, 1)


def test_whoever_is_too_slow_stops_writing_before_anybody_may_take_over(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    ticks = iter([0.0, 0.0, *[1000.0] * 50])
    slow = Switch(shelf.model, shelf.log, clock=lambda: next(ticks))
    with pytest.raises(ConflictError, match="took longer"):
        slow.change(shelf.asked(2, expected=1))
    assert shelf.aliases() == (1, None)


def test_a_server_that_fails_while_the_alias_moves_is_an_outage_and_the_next_change_goes_on(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault injection: the server takes no alias for the length of one change."""
    shelf.move(1, expected=None)

    def fails(alias: str, version: int | None) -> None:
        raise DependencyError("MLflow does not answer")

    monkeypatch.setattr(shelf.model, "set_alias", fails)
    with pytest.raises(DependencyError):
        shelf.move(2, expected=1)
    monkeypatch.undo()
    assert shelf.aliases() == (1, None)
    shelf.move(2, expected=1)
    assert shelf.aliases() == (2, 1)


def test_an_alias_that_somebody_moved_by_hand_is_where_a_rollback_returns_to(shelf: Shelf) -> None:
    shelf.move(1, expected=None)
    shelf.client.set_registered_model_alias(shelf.name, "champion", "3")
    shelf.move(2, expected=3)
    assert champions(shelf.log.read()) == [1, 3, 2]


def test_row_46_of_eight_processes_that_promote_at_once_one_wins_per_champion_and_the_history_is_linear(
    shelf: Shelf,
) -> None:
    compete(shelf, processes=8, turns=5)


@pytest.mark.system
@pytest.mark.timeout(900)
def test_row_46_two_hundred_promotions_and_rollbacks_through_a_server_leave_a_linear_history(
    server: Server, tmp_path: Path
) -> None:
    shelf = Shelf(TrackingSettings(uri=server.uri), "two hundred", tmp_path)
    shelf.add_versions(4)
    shelf.move(4, expected=None)
    compete(shelf, processes=10, turns=20)


def compete(shelf: Shelf, processes: int, turns: int) -> None:
    """Each promotes, and every third time rolls back, what stands at the moment; nobody but the winner changes it."""
    context = multiprocessing.get_context("fork")
    outcomes: Any = context.Queue()
    start = context.Barrier(processes)
    place = (shelf.tracking, shelf.name, shelf.folder)
    began = len(finished_changes(shelf.log.read()))
    started = [
        context.Process(target=_compete, args=(*place, number, turns, start, outcomes)) for number in range(processes)
    ]
    for process in started:
        process.start()
    found = [outcomes.get(timeout=600) for _ in range(turns * processes)]
    for process in started:
        process.join(60)
    assert {outcome for outcome, _ in found} <= {"won", "lost"}
    won = [entry for outcome, entry in found if outcome == "won"]
    assert len(set(won)) == len(won), "every winner has an entry of its own"
    check_linear(shelf, began + len(won))


def _compete(
    tracking: TrackingSettings, name: str, folder: Path, number: int, turns: int, start: Any, outcomes: Any
) -> None:
    """A loser has changed nothing."""
    shelf = Shelf(tracking, name, folder / str(number))
    start.wait(60)
    for turn in range(turns):
        expected = shelf.model.standing().champion
        version = next(v for v in (1 + (number + turn) % 3, 1 + (number + turn + 1) % 3) if v != expected)
        action = "rollback" if turn % 3 == 2 and expected is not None else "promote"
        try:
            outcomes.put(("won", shelf.move(version, expected, action).number))
        except ConflictError:
            outcomes.put(("lost", 0))


def check_linear(shelf: Shelf, winners: int) -> None:
    """Every change began where the one before it had ended, none is open, and the alias stands where the last says."""
    entries = shelf.log.read()
    changes = finished_changes(entries)
    assert len(changes) == winners and winners > 0
    champion = None
    for change in changes:
        assert change.before is not None and change.after is not None
        assert change.before.champion == champion
        champion = change.after.champion
    assert open_change(entries) is None
    assert shelf.model.standing().champion == champion
