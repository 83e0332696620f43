"""The folder of a report, which all runs of an experiment share."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from tasks.comparison.report import written_report
from tests.comparison.worlds import elastic, five_cells

ALWAYS = {"comparison.csv", "comparison.json", "comparison.md", "comparison.png"}


def test_what_an_earlier_report_or_a_killed_writer_left_is_no_part_of_the_next(tmp_path: Path) -> None:
    with written_report(elastic(), {}, tmp_path) as earlier:
        assert {path.name for path in earlier} == ALWAYS | {"sizes.png"}
    (tmp_path / ".samples.md.7-7").write_text("half")
    with written_report(five_cells(), {}, tmp_path) as report:
        assert {path.name for path in report} == {path.name for path in tmp_path.iterdir()} == ALWAYS


def test_a_run_that_ends_at_the_same_time_replaces_no_report_that_is_being_recorded(tmp_path: Path) -> None:
    def write_another() -> None:
        with written_report(elastic(), {}, tmp_path / "comparison"):
            pass

    other = Thread(target=write_another)
    with written_report(five_cells(), {}, tmp_path / "comparison") as report:
        before = [path.read_bytes() for path in report]
        other.start()
        other.join(timeout=3)
        assert other.is_alive()
        assert [path.read_bytes() for path in report] == before
    other.join()
    assert (tmp_path / "comparison" / "sizes.png").exists()
