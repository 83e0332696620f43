"""`tuneline init`."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from configs.loading import name_from
from configs.suggest import suggest
from tasks.foundation.errors import ConfigError


def write_experiment(data: Path, model: str, output: Path, console: Console) -> None:
    """Write a commented experiment; an existing file is never overwritten."""
    if output.exists():
        raise ConfigError(f"{output} exists", where="--output", fix="Name another file with -o")
    text = suggest(data, model, name_from(output))
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"{output} cannot be written ({type(error).__name__})"
        raise ConfigError(
            what, where="--output", fix="Name a file in a folder that is there and can be written"
        ) from error
    command = f"tuneline run {shlex.quote(str(output))}"
    console.print(f"Wrote {output}. Read it, then: {command}", highlight=False, soft_wrap=True)
