"""Small experiments as text, and the one way in which every bad input must be refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.loading import InvalidExperimentError, load_experiment
from tasks.foundation.errors import ConfigError

SMALL = """\
model: {name_or_path: some/folder}
data:
  train: rows.jsonl
methods:
  - {kind: none}
  - {kind: lora, r: 8}
"""

NO_NAME_OF_A_PYDANTIC_TYPE = ("Input should", "pydantic", "Traceback", "value_error", "DataSource", "tuple[")


def written(folder: Path, text: str, name: str = "a.yaml") -> Path:
    """A file with the text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """Every problem as the user reads it, the path of the folder taken out; each on one line, exit code 10."""
    with pytest.raises(ConfigError) as caught:
        load_experiment(path, overrides, {})
    error = caught.value
    assert error.exit_code == 10
    errors = error.details if isinstance(error, InvalidExperimentError) else (error,)
    lines = [str(detail).replace(f"{path.parent}/", "") for detail in errors]
    for line in (*lines, str(error)):
        assert "\n" not in line
        assert not [word for word in NO_NAME_OF_A_PYDANTIC_TYPE if word in line], line
    return lines
