"""The board: anyone may watch, and no step fails because of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tasks.workspace import CellState, read_board
from tasks.workspace.board import Board


@pytest.fixture
def board(tmp_path: Path) -> Board:
    board = Board(tmp_path)
    board.clear()
    return board


def test_a_state_is_read_as_it_was_shown_and_replaced_by_the_next(board: Board, tmp_path: Path) -> None:
    board.show(CellState(label="lora seed 1", phase="train", done=3, total=9))
    state = CellState(label="lora seed 1", phase="train", done=4, total=9, loss=1.5, seconds_left=2.0, detail="质")
    board.show(state)

    assert read_board(tmp_path) == [state]


def test_the_loss_of_training_stays_while_the_cell_goes_on(board: Board, tmp_path: Path) -> None:
    for state in (CellState(label="lora", phase="train", loss=1.5), CellState(label="lora", phase="done")):
        board.show(state)

    assert (read_board(tmp_path)[0].phase, read_board(tmp_path)[0].loss) == ("done", 1.5)


def test_states_come_in_the_order_of_the_list_and_not_of_their_arrival(board: Board, tmp_path: Path) -> None:
    for label, position in (("c", 2), ("b", 1), ("a", 2), ("shared", 0)):
        board.show(CellState(label=label, phase="waiting", position=position))

    assert [state.label for state in read_board(tmp_path)] == ["shared", "b", "a", "c"]


@pytest.mark.parametrize("damage", [b"", b'{"label": "x"', b"\xff\xfe\x00", b'{"label": "x", "phase": "unheard"}'])
def test_a_torn_file_is_skipped(board: Board, tmp_path: Path, damage: bytes) -> None:
    board.show(CellState(label="whole", phase="train"))
    (tmp_path / "0000.json").write_bytes(damage)

    assert [state.label for state in read_board(tmp_path)] == ["whole"]


def test_labels_may_hold_any_character(board: Board, tmp_path: Path) -> None:
    for label in ("a/b", "../c", "质" * 200):
        board.show(CellState(label=label, phase="train"))

    assert len(read_board(tmp_path)) == 3


def test_clear_forgets_the_states_of_an_earlier_run(board: Board, tmp_path: Path) -> None:
    board.show(CellState(label="old", phase="done"))
    board.clear()

    assert read_board(tmp_path) == []
    assert read_board(tmp_path / "never made") == []


def test_a_loss_that_is_no_number_does_not_break_the_board(board: Board, tmp_path: Path) -> None:
    board.show(CellState(label="a", phase="train", loss=float("nan"), seconds_left=float("inf")))

    assert read_board(tmp_path)[0].loss is None


def test_a_board_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Board(tmp_path / "gone").show(CellState(label="lora", phase="train"))

    assert "progress of lora cannot be shown" in caplog.text


def test_threads_that_show_the_same_cell_at_once_do_not_meet(
    board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def show() -> None:
        for done in range(100):
            board.show(CellState(label="lora", phase="train", done=done, total=100))

    threads = [threading.Thread(target=show) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert caplog.text == ""
    assert read_board(tmp_path)[0].done == 99
    assert len(list(tmp_path.iterdir())) == 1
