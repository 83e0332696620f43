"""Quality per size, as text and as a picture."""

from __future__ import annotations

from pathlib import Path

from tasks.comparison import Comparison, to_markdown
from tasks.comparison.curves import drawn_sizes
from tasks.comparison.report import written_report
from tasks.comparison.sizes import size_lines
from tests.comparison.test_render import printed
from tests.comparison.worlds import elastic, five_cells


def test_a_small_table_shows_each_size_with_what_was_measured_at_it() -> None:
    lines = to_markdown(elastic()).splitlines()
    start = lines.index("### Quality per size")
    assert lines[start + 2 : start + 9] == [
        "| cell | size | loss | bleu |",
        "| --- | --- | ---: | ---: |",
        "| adapter_drop | drop 0 | 1.100 | 30.00 |",
        "| adapter_drop | drop 1 | 1.250 | 28.00 |",
        "| adapter_drop | drop \\| 2 | 3.000 | - |",
        "| shrinking | r 8 | 1.300 | - |",
        "| shrinking | r 4 | 1.600 | - |",
    ]


def test_a_terminal_shows_a_line_per_cell_and_metric() -> None:
    assert "shrinking, loss per size: r 8 1.300, r 4 1.600" in printed(elastic(), 100)


def test_without_sizes_nothing_is_said_of_them_and_nothing_drawn(tmp_path: Path) -> None:
    with written_report(five_cells(), {}, tmp_path):
        pass
    assert "per size" not in (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert list(size_lines(five_cells())) == []
    assert not (tmp_path / "sizes.png").exists()


def test_the_curves_are_drawn_into_the_report_and_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    with written_report(elastic(), {}, tmp_path / "report"):
        drawn = (tmp_path / "report" / "sizes.png").read_bytes()
    assert drawn == drawn_sizes(elastic())
    assert drawn.startswith(b"\x89PNG")


def test_the_sizes_survive_the_trip_through_json() -> None:
    assert Comparison.model_validate_json(elastic().model_dump_json()) == elastic()
