"""`tuneline init`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from configs.suggest import suggest
from tasks.foundation.errors import ConfigError


def write_experiment(data: Path, model: str, output: Path, console: Console) -> None:
    """Write a commented experiment; an existing file is never overwritten."""
    if output.exists():
        raise ConfigError(f"{output} exists", where="--output", fix="Name another file with -o")
    text = suggest(data, model, output.stem)
    output.write_text(text, encoding="utf-8")
    console.print(f"Wrote {output}. Read it, then: tuneline run {output}", highlight=False, soft_wrap=True)
