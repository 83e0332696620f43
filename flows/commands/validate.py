"""`tuneline validate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from configs.checks import validate
from configs.experiment import with_environment
from configs.loading import load_experiment


def validate_experiment(path: Path, overrides: Sequence[str], console: Console) -> int:
    """Print every problem on a line of its own, or that there is none; the exit code of the first one."""
    settings = with_environment(load_experiment(path, overrides), os.environ)
    problems = validate(settings)
    for problem in problems:
        sys.stderr.write(f"tuneline: {problem}\n")
    if problems:
        return problems[0].exit_code
    cells = sum(len(settings.training.seeds) for method in settings.methods if method.info.holds != "nothing")
    console.print(f"{path}: valid. {cells} cells to train on {settings.model.name_or_path}.", highlight=False)
    return 0
