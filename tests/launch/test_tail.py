"""What ranks print is passed on line by line, and never more of it than somebody can read."""

from __future__ import annotations

import itertools
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.launch.logs import cap
from tasks.launch.tail import BURST_LINES, LAST_LINES, LINE_CHARS, LINES_PER_SECOND, LogTail


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def write(log: Path, data: bytes) -> None:
    with log.open("ab") as file:
        file.write(data)


def test_lines_of_an_earlier_attempt_are_not_passed_on_again(log: Path) -> None:
    write(log, b"old\n")
    tail = LogTail(log)
    write(log, b"new\n")
    assert tail.new_lines() == ["new"]
    assert tail.new_lines() == []


def test_a_log_that_is_not_there_yet_is_read_when_it_comes(log: Path) -> None:
    tail = LogTail(log)
    assert tail.new_lines() == []
    write(log, b"first\n")
    assert tail.new_lines() == ["first"]


def test_a_log_that_cannot_be_read_has_no_lines(log: Path) -> None:
    tail = LogTail(log)
    log.mkdir()
    assert (tail.new_lines(), tail.last_lines()) == ([], [])


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30), max_size=40),
    cuts=st.lists(st.integers(0, 2000), max_size=10),
)
def test_lines_come_whole_and_once_wherever_the_writer_paused(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cuts: list[int]
) -> None:
    log = tmp_path_factory.mktemp("tail") / "log.txt"
    data = "".join(f"{text}\n" for text in texts).encode()
    tail, seen = LogTail(log), []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(places):
        write(log, data[begin:end])
        seen += tail.new_lines()
    assert seen == texts


@given(data=st.binary(max_size=500))
def test_any_bytes_become_text_that_a_database_takes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    log = tmp_path_factory.mktemp("tail") / "log.txt"
    tail = LogTail(log)
    write(log, data)
    text = "\n".join(tail.last_lines())
    text.encode("utf-8")
    assert not set(text) & {chr(code) for code in range(32) if chr(code) not in "\t\n"}


def test_an_unfinished_line_comes_with_the_last_words(log: Path) -> None:
    tail = LogTail(log)
    write(log, b"Segmentation fault \xff")
    assert tail.new_lines() == []
    assert tail.last_lines() == ["Segmentation fault \N{REPLACEMENT CHARACTER}"]


def test_colours_are_left_out_and_of_a_progress_bar_the_end_is_shown(log: Path) -> None:
    tail = LogTail(log)
    write(log, b"\x1b[1;31mred\x1b[0m\r\n 0%| |\r 50%|# |\r100%|##|\nnext\n")
    assert tail.new_lines() == ["red", "100%|##|", "next"]


def test_a_long_line_is_cut_however_long_it_is(log: Path) -> None:
    tail = LogTail(log)
    for _ in range(3):
        write(log, b"x" * (3 << 20))
        assert tail.new_lines() == []
        assert len(tail._begun) <= 4 * LINE_CHARS + 1
    write(log, b"\nnext\n")
    assert tail.new_lines() == ["x" * LINE_CHARS + " …", "next"]


def test_a_storm_is_cut_to_what_can_be_read_and_its_end_is_kept(log: Path) -> None:
    tail = LogTail(log, Clock())
    count = BURST_LINES + 100_000
    write(log, b"".join(b"line %d\n" % number for number in range(count)))
    assert tail.new_lines() == [f"line {number}" for number in range(BURST_LINES)]
    last = [f"line {number}" for number in range(count - LAST_LINES, count)]
    assert tail.last_lines() == [f"… {count - BURST_LINES - LAST_LINES} lines left out", *last]


def test_a_steady_flood_comes_in_readable_pieces_at_the_rate_that_is_allowed(log: Path) -> None:
    clock = Clock()
    tail = LogTail(log, clock)
    seen: list[str] = []
    for second in range(600):
        write(log, b"".join(b"%d.%d\n" % (second, number) for number in range(50)))
        seen += tail.new_lines()
        clock.now += 1.0
    gaps = [line for line in seen if "left out" in line]
    assert 0.9 < (len(seen) - len(gaps)) / (BURST_LINES + 600 * LINES_PER_SECOND) <= 1.0
    assert len(gaps) < len(seen) / 20


def test_a_log_that_was_emptied_is_read_from_its_start(log: Path) -> None:
    tail = LogTail(log)
    write(log, b"before\nhalf a li")
    assert tail.new_lines() == ["before"]
    cap(log, 5)
    write(log, b"after\n")
    assert tail.new_lines() == ["after"]


def test_a_quarter_of_a_gigabyte_costs_little_memory(log: Path) -> None:
    """A sparse file: what a rank that went mad leaves, without its time to write it."""
    tail = LogTail(log)
    write(log, b"begin\n")
    os.truncate(log, 1 << 28)
    write(log, b"\nend\n")
    tracemalloc.start()
    assert tail.new_lines() == ["begin", "end"]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 16 << 20
