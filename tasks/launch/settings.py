"""Where ranks run, and how many."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.foundation.values import Settings


class DistributedSettings(Settings):
    """Section `distributed`."""

    launcher: Literal["local"] = "local"
    """`local`: torchrun on this machine."""
    ranks_per_node: int = Field(default=1, gt=0)
    """Processes of one cell; on a GPU machine one per accelerator."""
    parallel_cells: int | None = Field(default=None, gt=0)
    """Cells side by side; when absent, as many as cores (CPU) or accelerators allow."""
