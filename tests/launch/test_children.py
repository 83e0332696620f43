"""Functions that run in child processes: their answers, their errors, their deaths."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tasks.foundation.errors import CancelledRunError, DataError, RankError, ResourceError, TunelineError
from tasks.launch import child as one_child
from tasks.launch.children import Children, children, run_in_child, run_in_child_reporting
from tasks.launch.slots import Slots
from tests.launch import functions
from tests.launch.worlds import alive, killed_after, out_of_reach, pids_of, wait_until


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Children]:
    pool = Children(2, tmp_path / "children.log")
    yield pool
    pool.close()


def outcome_of(action: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run in a thread; the list gets what it returned or raised."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_a_function_runs_in_another_process_which_serves_the_next_call_too(pool: Children) -> None:
    first = pool.run(functions.pid)

    assert first != os.getpid()
    assert pool.run(functions.add, 2, b=3) == 5
    assert pool.run(functions.pid) == first


def test_an_error_by_cause_arrives_as_it_was_raised(pool: Children) -> None:
    with pytest.raises(DataError) as raised:
        pool.run(functions.refuse, "bad row")

    assert str(raised.value) == "a.csv:3: bad row. Mend it."
    assert pool.run(functions.add, 1) == 2


def test_an_error_that_nobody_foresaw_keeps_its_name_and_its_traceback_is_in_the_log(
    pool: Children, tmp_path: Path
) -> None:
    with pytest.raises(TunelineError, match="ZeroDivisionError: division by zero") as raised:
        pool.run(functions.divide, 1, 0)

    assert raised.value.exit_code == 1
    assert str(tmp_path / "children.log") in str(raised.value)
    assert "in divide" in (tmp_path / "children.log").read_text()


def test_a_full_disk_is_a_lack_of_resources(pool: Children) -> None:
    with pytest.raises(ResourceError, match="disk is full"):
        pool.run(functions.fill_the_disk)


def test_what_cannot_cross_the_border_is_an_error_and_harms_nobody(pool: Children) -> None:
    with pytest.raises(TunelineError, match="pickle"):
        pool.run(functions.answer_with_a_function)
    with pytest.raises(Exception, match="pickle"):
        pool.run(lambda: None)

    assert pool.run(functions.add, 1) == 2


def test_a_killed_child_is_most_likely_a_lack_of_memory_and_the_next_call_works(pool: Children) -> None:
    for _ in range(2):
        with pytest.raises(ResourceError, match=r"die was killed.*memory") as raised:
            pool.run(functions.die)

    assert "parallel_cells" in raised.value.fix
    assert pool.run(functions.add, 1) == 2


def test_a_killed_child_takes_no_other_call_with_it(pool: Children, tmp_path: Path) -> None:
    thread, outcome = outcome_of(lambda: pool.run(functions.wait_for, tmp_path / "go"))
    with pytest.raises(ResourceError):
        pool.run(functions.die)
    (tmp_path / "go").touch()
    thread.join()

    assert isinstance(outcome[0], int)


def test_a_child_that_was_killed_between_two_calls_is_replaced(pool: Children) -> None:
    first = pool.run(functions.pid)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: alive([first]) == [])

    assert pool.run(functions.pid) != first


def test_other_deaths_are_told_as_what_they_are(pool: Children) -> None:
    with pytest.raises(RankError, match="die died of SIGSEGV"):
        pool.run(functions.die, signal.SIGSEGV)
    with pytest.raises(RankError, match="leave died with exit code 3"):
        pool.run(functions.leave, 3)
    with pytest.raises(CancelledRunError, match="got SIGTERM"):
        pool.run(functions.die, signal.SIGTERM)


def test_progress_arrives_in_order_before_the_answer(pool: Children) -> None:
    seen: list[tuple[int, int, float | None]] = []

    answer = pool.run_reporting(functions.count, lambda *progress: seen.append(progress), 3)

    assert answer == 3
    assert seen == [(1, 3, None), (2, 3, None), (3, 3, 0.5)]


def test_a_listener_that_fails_ends_its_call_only(pool: Children) -> None:
    def refuse(done: int, total: int, loss: float | None) -> None:
        raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        pool.run_reporting(functions.count, refuse, 3)
    assert pool.run(functions.add, 1) == 2


def test_what_children_print_is_appended_to_the_log(pool: Children, tmp_path: Path) -> None:
    (tmp_path / "children.log").write_text("before\n")
    pool.run(functions.talk, "hello")

    log = (tmp_path / "children.log").read_text()
    assert log.startswith("before\n")
    assert all(line in log for line in ("hello\n", "hello on stderr\n", "hello from below\n"))


def test_never_more_calls_at_a_time_than_the_pool_has_places(pool: Children, tmp_path: Path) -> None:
    running = [outcome_of(lambda: pool.run(functions.wait_for, tmp_path / "go")) for _ in range(5)]
    (tmp_path / "go").touch()
    for thread, _ in running:
        thread.join()

    assert len({outcome[0] for _, outcome in running}) <= 2


def test_a_child_sees_the_accelerators_of_its_callers_slot_and_no_others(
    pool: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with Slots((("2",),)).hold():
        first = pool.run(functions.environment)
    with Slots((("5",),)).hold():
        second = pool.run(functions.environment)

    assert first["CUDA_VISIBLE_DEVICES"] == "2"
    assert second["CUDA_VISIBLE_DEVICES"] == "5"
    assert first["HF_HUB_OFFLINE"] == "1"


def test_close_ends_a_busy_child_with_all_that_it_started_and_its_caller_hears_of_a_cancel(
    pool: Children, tmp_path: Path
) -> None:
    thread, outcome = outcome_of(lambda: pool.run(functions.say_and_sleep, tmp_path / "here0"))
    waiting = [outcome_of(lambda: pool.run(functions.say_and_sleep, tmp_path / "here1")) for _ in range(2)]
    pids = pids_of(tmp_path, ranks=2)
    assert alive(pids) == pids
    pool.close()
    for waiter in (thread, *(waiter for waiter, _ in waiting)):
        waiter.join()

    assert [type(one) for one in (outcome[0], *(other[0] for _, other in waiting))] == [CancelledRunError] * 3
    wait_until(lambda: alive(pids) == [])
    with pytest.raises(CancelledRunError):
        pool.run(functions.add, 1)


def test_what_a_killed_child_had_started_does_not_outlive_it(pool: Children, tmp_path: Path) -> None:
    thread, outcome = outcome_of(lambda: pool.run(functions.say_and_sleep, tmp_path / "here0"))
    child, below = pids_of(tmp_path)
    os.kill(child, signal.SIGKILL)
    thread.join()

    assert isinstance(outcome[0], ResourceError)
    assert alive([child, below]) == []


def test_a_child_that_the_system_does_not_let_go_of_does_not_hold_up_the_end(
    pool: Children, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(one_child, "_END_SECONDS", 0.2)
    child = pool.run(functions.pid)
    with out_of_reach(child):
        closing = threading.Thread(target=pool.close, daemon=True)
        closing.start()
        wait_until(lambda: not closing.is_alive())
        assert alive([child]) == [child]
        assert f"pid {child} got SIGKILL and is still there" in caplog.text


def test_an_interrupted_call_does_not_leave_its_child_behind(pool: Children) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    child = pool.run(functions.pid)
    with pytest.raises(KeyboardInterrupt):
        pool.run_reporting(functions.count, interrupt, 3)

    assert alive([child]) == []


def test_children_and_what_they_started_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with killed_after("-m", "tests.launch.starter", "children", str(tmp_path)):
        pids = pids_of(tmp_path)
        assert alive(pids) == pids

    wait_until(lambda: alive(pids) == [])


def test_tasks_of_a_flow_use_its_pool_and_others_run_where_they_are(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float | None]] = []
    with children(1, tmp_path / "log"):
        assert run_in_child(functions.pid) != os.getpid()
        assert run_in_child_reporting(functions.count, lambda *progress: seen.append(progress), 1) == 1

    assert run_in_child(functions.pid) == os.getpid()
    assert run_in_child_reporting(functions.count, lambda *progress: seen.append(progress), 1) == 1
    assert seen == [(1, 1, 0.5), (1, 1, 0.5)]
