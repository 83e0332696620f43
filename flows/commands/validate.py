"""`tuneline validate`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from configs.checks import validate
from configs.experiment import Experiment, with_environment
from configs.loading import InvalidExperimentError, load_experiment
from tasks.foundation.errors import TunelineError


def validate_experiment(path: Path, overrides: Sequence[str], console: Console) -> int:
    """Print every problem on a line of its own, or that there is none; the exit code of the first one."""
    settings, problems = examined(path, overrides)
    for problem in problems:
        sys.stderr.write(f"tuneline: {problem}\n")
    if settings is None or problems:
        return problems[0].exit_code
    cells = sum(len(settings.training.seeds) for method in settings.methods if method.holds != "nothing")
    counted = "1 cell" if cells == 1 else f"{cells} cells"
    console.print(
        f"{path}: valid. {counted} to train on {settings.model.name_or_path}.", highlight=False, soft_wrap=True
    )
    return 0


def examined(path: Path, overrides: Sequence[str]) -> tuple[Experiment | None, Sequence[TunelineError]]:
    """The experiment and its problems; where the file itself is wrong, every problem of the file."""
    try:
        with _notes_on_stderr():
            settings = with_environment(load_experiment(path, overrides), os.environ)
    except InvalidExperimentError as error:
        return None, error.details
    return settings, validate(settings)


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    """What methods say of files that they read: which parts of them are not heeded."""
    noted, handler = logging.getLogger("tasks.methods"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("tuneline: note: %(message)s"))
    level = noted.level
    noted.addHandler(handler)
    noted.setLevel(logging.INFO)
    try:
        yield
    finally:
        noted.removeHandler(handler)
        noted.setLevel(level)
