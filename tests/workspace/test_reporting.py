"""A step in progress, and how its run ends: seen on the board, and at the tracking server."""

from __future__ import annotations

import resource
import threading
from pathlib import Path

import pytest

from tasks.foundation.errors import CancelledRunError, DivergenceError
from tasks.launch.slots import Devices, Slots, sharing
from tasks.tracking import owned_here
from tasks.workspace import Phase, Reporter, close_done, close_failed, read_board, reporting, working
from tests.launch.worlds import wait_until
from tests.workspace.worlds import arrived, place_in, shown


def test_a_step_that_goes_well_shows_its_phase_and_leaves_its_run_open(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    with reporting(place, "prepare") as reporter:
        assert shown(place).phase == "prepare"
        reporter.progress(2, 8, 0.5, seconds_left=3.0)

        state = shown(place)
        assert (state.done, state.total, state.loss, state.seconds_left, state.position) == (2, 8, 0.5, 3.0, 1)

    run = arrived(place)
    assert run.status == "RUNNING"
    assert "tuneline.error" not in run.tags


def test_a_note_stays_on_the_board_while_the_step_goes_on(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    with reporting(place, "train") as reporter:
        reporter.note("again with half the micro-batch")
        reporter.progress(2, 8)

        assert (shown(place).done, shown(place).detail) == (2, "again with half the micro-batch")
        reporter.note("")
        assert shown(place).detail == ""


def test_without_an_estimate_the_time_left_is_extrapolated(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    seconds = iter([100.0, 110.0])
    Reporter(place, "evaluate", clock=lambda: next(seconds)).progress(2, 8)

    assert shown(place).seconds_left == 30.0


def test_an_error_by_cause_fails_the_run_with_its_text_and_exit_code(tmp_path: Path) -> None:
    place = place_in(tmp_path)
    with pytest.raises(DivergenceError), reporting(place, "train"):
        raise DivergenceError("the loss became NaN", where="step 12", fix="Lower\nthe learning rate")

    run = arrived(place)
    assert run.status == "FAILED"
    assert run.tags["tuneline.error"] == "step 12: the loss became NaN. Lower the learning rate."
    assert run.tags["tuneline.exit_code"] == "30"
    assert (shown(place).phase, shown(place).detail) == ("failed", run.tags["tuneline.error"])
    assert shown(place).position == 1


def test_on_a_full_disk_the_cause_of_the_failure_is_still_raised_and_the_end_comes_with_the_next_start(
    tmp_path: Path,
) -> None:
    place = place_in(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(DivergenceError, match="became NaN"), reporting(place, "train"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (place.run.journal.stat().st_size, limits[1]))
        try:
            close_failed(place, DivergenceError("the loss became NaN"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert owned_here(place.run.journal)
        raise DivergenceError("the loss became NaN")

    assert arrived(place).status == "FAILED"


def test_an_error_that_nobody_foresaw_fails_the_run_and_its_traceback_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = place_in(tmp_path)
    with pytest.raises(ZeroDivisionError), reporting(place, "train"):
        _ = 1 / 0

    run = arrived(place)
    assert (run.status, run.tags["tuneline.exit_code"]) == ("FAILED", "1")
    assert run.tags["tuneline.error"] == "ZeroDivisionError: division by zero"
    assert "_ = 1 / 0" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CancelledRunError("cancelled"), "143"),
        (KeyboardInterrupt(), "130"),
        (SystemExit(143), "143"),
        (type("TerminationSignal", (BaseException,), {})(15), "143"),
    ],
    ids=["cancelled", "Ctrl-C", "SIGTERM", "cancelled by the orchestrator"],
)
def test_what_is_ended_from_outside_is_killed_and_not_failed(tmp_path: Path, error: BaseException, code: str) -> None:
    place = place_in(tmp_path)
    with pytest.raises(type(error)), reporting(place, "train"):
        raise error

    run = arrived(place)
    assert (run.status, run.tags["tuneline.exit_code"]) == ("KILLED", code)
    assert shown(place).phase == "failed"


@pytest.mark.parametrize(("cached", "detail"), [(True, "cached"), (False, "")])
def test_a_cell_that_is_done_is_finished_and_says_whether_it_was_cached(
    tmp_path: Path, cached: bool, detail: str
) -> None:
    place = place_in(tmp_path)
    close_done(place, cached=cached)

    run = arrived(place)
    assert (run.status, run.tags["tuneline.cached"]) == ("FINISHED", str(cached).lower())
    assert (shown(place).phase, shown(place).detail) == ("done", detail)


def test_a_step_waits_for_a_slot_and_says_so_then_works_on_its_devices(tmp_path: Path) -> None:
    slots = Slots((("3",),))
    place = place_in(tmp_path)
    seen: list[tuple[Phase, Devices]] = []

    def work() -> None:
        with sharing(slots), working(place, "train") as reporter:
            seen.append((shown(place).phase, reporter.devices))

    thread = threading.Thread(target=work)
    with slots.hold():
        thread.start()
        wait_until(lambda: bool(read_board(place.board)))
        assert shown(place).phase == "waiting"
        assert seen == []
    thread.join()

    assert seen == [("train", ("3",))]
