from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from benchmarks.base import Conditions
from benchmarks.findings import Finding, counted, findings_table
from benchmarks.records import Machine, keep, new_record

LOUD = Finding(name="06", done="SIGKILL in a save", saw="exit 1 (no such file)", verdict="loud")
SILENT = Finding(name="32", done="one loss is NaN", saw="exit 0", verdict="silent", broken=True)


def test_findings_are_counted_by_verdict_the_most_frequent_first() -> None:
    assert counted([LOUD, SILENT, SILENT]) == "2 silent, 1 loud"


def test_the_table_says_what_was_done_and_what_happened() -> None:
    console = Console(width=120, record=True)
    console.print(findings_table("control", [LOUD]))
    text = console.export_text()
    assert all(words in text for words in ("06", "SIGKILL in a save", "exit 1 (no such file)", "loud"))


def test_a_record_keeps_findings_beside_figures_and_the_seed(tmp_path: Path) -> None:
    machine = Machine(cores=2, cpu="a", memory_gib=4, load=0.1, python="3.11", versions={})
    conditions = Conditions(repeats=6, quick=False, scratch=tmp_path, seed=7)
    keep(new_record((LOUD, SILENT), conditions, machine), tmp_path / "x.json")
    (record,) = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert record["seed"] == 7
    assert [Finding.model_validate(one) for one in record["findings"]] == [LOUD, SILENT]
