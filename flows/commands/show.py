"""`tuneline show`."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from rich.console import Console

from configs.experiment import Paths
from flows.view import bars
from tasks.comparison.render import to_rich
from tasks.comparison.values import Comparison
from tasks.foundation.errors import ConfigError
from tasks.workspace.board import read_board


def show_run(name: str, console: Console) -> None:
    """The comparison of an experiment, and the board of one that is running or broke off."""
    folder = report_folder(name, Paths.from_environment(os.environ).runs / "reports")
    states = read_board(folder / "progress")
    if any(state.phase != "done" for state in states):
        console.print(bars(states))
    comparison = folder / "comparison" / "comparison.json"
    if comparison.exists():
        console.print(to_rich(Comparison.model_validate_json(comparison.read_text(encoding="utf-8"))))
    console.print(f"\nFiles: {folder}", highlight=False, soft_wrap=True)


def report_folder(name: str, reports: Path) -> Path:
    """The report folder of a name.

    Raises:
        ConfigError: nothing was run under this name.
    """
    known = sorted(path.name for path in reports.iterdir()) if reports.is_dir() else []
    if name in known:
        return reports / name
    close = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        f"nothing was run as {name!r} here",
        where=str(reports),
        allowed=", ".join(known),
        fix=f"Did you mean {close[0]}?" if close else "Start one with `tuneline run EXPERIMENT.yaml`",
    )
