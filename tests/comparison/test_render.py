from __future__ import annotations

import csv
import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from tasks.comparison import Comparison, compare, to_csv, to_markdown, to_rich
from tests.comparison.worlds import BLEU, DIGEST, LOSS, five_cells, five_rows, row


def printed(comparison: Comparison, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(to_rich(comparison))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_markdown_names_the_winner_and_shows_value_and_difference() -> None:
    lines = to_markdown(five_cells()).splitlines()
    assert "Winner by lowest loss: full." in lines
    full = next(line for line in lines if line.startswith("| **full** |"))
    assert "| 1.100 | -3.200 | 31.23 | +31.11 | 260k | 812MB | 1m05s | 12.3k | 1.04MB | - |" in full


def test_markdown_links_the_names_that_lead_somewhere() -> None:
    lines = to_markdown(five_cells(), {"full": "http://m/1"}).splitlines()
    assert any(line.startswith("| **[full](http://m/1)** |") for line in lines)
    assert any(line.startswith("| lora |") for line in lines)


def test_markdown_tables_stay_whole_when_a_reason_has_a_pipe_and_a_line_break() -> None:
    text = to_markdown(five_cells())
    assert r"- ia3 failed: the loss became NaN at step 12. Lower the \| learning_rate" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1


def test_a_note_on_a_cell_stands_under_the_table_and_in_the_file_for_machines() -> None:
    note = "trained with micro-batches of 4 x 2, since 8 x 1 ran out of memory"
    noted = compare("c", [row("lora", metrics={"loss": 1.0}, note=note)], [LOSS], "loss", DIGEST)
    assert f"- lora: {note}" in to_markdown(noted).splitlines()
    assert f"lora: {note}" in printed(noted, 100)
    assert next(csv.DictReader(io.StringIO(to_csv(noted))))["note"] == note


def test_csv_holds_raw_numbers_and_leaves_absent_ones_empty() -> None:
    rows = {each["label"]: each for each in csv.DictReader(io.StringIO(to_csv(five_cells())))}
    assert list(rows) == ["full", "lora", "none", "prompt_tuning", "ia3"]
    assert float(rows["full"]["peak_memory_bytes"]) == 812_000_000
    assert float(rows["full"]["delta_bleu"]) == 31.23 - 0.12
    assert rows["none"]["delta_bleu"] == ""
    assert rows["lora"]["merge"] == "merged"
    assert rows["ia3"]["reason"] == "the loss became NaN at step 12. Lower the | learning_rate"


def test_a_terminal_of_80_columns_shows_every_number_whole() -> None:
    lines = printed(five_cells(), 80)
    assert all(cell_len(line) <= 80 for line in lines)
    table = lines[: len(lines) - 3]
    assert not any("…" in line for line in table)
    head, values = table[0].split(), table[2].split()
    assert head == ["cell", "loss", "Δbase", "bleu", "Δbase", "params", "memory", "time", "tok/s", "size", "merge"]
    assert values[:6] == ["★", "full", "1.100", "-3.200", "31.23", "+31.11"]
    assert values[6:] == ["260k", "812MB", "1m05s", "12.3k", "1.04MB", "-"]


def test_failed_cells_give_their_reason_under_the_table_and_cached_ones_are_named() -> None:
    lines = printed(five_cells(), 80)
    assert lines[-1] == "ia3 failed: the loss became NaN at step 12. Lower the | learning_rate"
    assert lines[-2] == "cached, verified and not run again: none"
    assert any(line.startswith("✗ ia3") for line in lines)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_loses_columns_but_never_what_decides(width: int) -> None:
    columns = [LOSS, BLEU, *(LOSS.model_copy(update={"name": f"metric_{place}"}) for place in range(6))]
    wide = {f"metric_{place}": 0.123 for place in range(6)}
    rows = [each.model_copy(update={"metrics": {**each.metrics, **wide}}) for each in five_rows() if each.metrics]
    lines = printed(compare("many", rows, columns, "bleu", DIGEST), width)
    assert all(cell_len(line) <= width for line in lines)
    assert "bleu" in lines[0].split()
    assert "31.23" in lines[2].split()


def test_labels_of_any_script_and_length_keep_the_columns_aligned() -> None:
    rows = [row("lora", label="低秩适配", metrics={"loss": 1.0}), row("x", label="y" * 60, metrics={"loss": 2.0})]
    lines = printed(compare("c", rows, [LOSS], "loss", DIGEST), 80)
    ends = {cell_len(line[: line.index(text) + 5]) for line, text in zip(lines[2:4], ("1.000", "2.000"), strict=True)}
    assert len(ends) == 1
    assert "…" in lines[3]


def test_a_comparison_without_a_trained_cell_says_that_nobody_won() -> None:
    comparison = compare("c", [row("none", metrics={"loss": 1.0})], [LOSS], "loss", DIGEST)
    assert "No winner by lowest loss: no trained cell has a score." in printed(comparison, 80)
    assert "No winner" in to_markdown(comparison)


def test_forgetting_has_a_column_only_where_it_was_measured() -> None:
    assert "forgetting" not in to_markdown(five_cells())
    rows = [row("lora", metrics={"loss": 1.0}, forgetting=0.25)]
    assert "+0.250" in to_markdown(compare("c", rows, [LOSS], "loss", DIGEST))
