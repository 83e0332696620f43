"""`python -m benchmarks` with a folder that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks.base import Benchmark, Conditions
from benchmarks.findings import Finding


class Counting(Benchmark):
    """Counts its starts in the folder that it is given."""

    name: ClassVar[str] = "counting"
    covers: ClassVar[str] = "-"
    question: ClassVar[str] = "How often was it started here?"
    goes_on: ClassVar[bool] = True

    def measure(self, conditions: Conditions) -> tuple[Finding, ...]:
        with (conditions.scratch / "starts").open("a", encoding="utf-8") as file:
            file.write("x")
        starts = (conditions.scratch / "starts").read_text(encoding="utf-8")
        return (Finding(name="counting", done="", saw=starts, verdict="right"),)


def test_what_a_benchmark_makes_in_a_kept_folder_is_there_at_its_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(command, "keep", lambda record, path: seen.append(record.findings[0].saw))
    for keep_in in (tmp_path / "kept", tmp_path / "kept", None):
        assert command.run(Counting(), (1, True, 0), Console(quiet=True), keep_in)
    assert seen == ["x", "xx", "x"]


def test_a_benchmark_that_measures_its_own_time_refuses_a_kept_folder(tmp_path: Path) -> None:
    said = CliRunner().invoke(command.app, ["startup", "--keep-in", str(tmp_path)])
    assert said.exit_code == 2
    assert "Leave --keep-in out" in " ".join(said.output.split())
