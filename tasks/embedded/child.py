"""Pretraining as a child process runs it: the parent names this function without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.embedded.pretrain import Report


def build_base_in_child(folder: Path, report: Report) -> None:
    """See `tasks.embedded.pretrain.build_base`."""
    from tasks.embedded.pretrain import build_base

    build_base(folder, report)
