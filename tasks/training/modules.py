"""What a method wants of its base's modules, looked at before any weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.foundation.errors import ModelError
from tasks.methods import Method, Supplies, parse_method
from tasks.training.values import Cell

if TYPE_CHECKING:
    from torch import nn


def looks_at_modules(cell: Cell) -> bool:
    """Whether the cell's method or the adapter it starts from may be refused for what only the base's modules show."""
    return cell.start is not None or type(parse_method(cell.method)).check_modules is not Method.check_modules


def check_modules(cells: Sequence[Cell]) -> None:
    """Look at each base's architecture once, for all cells on it. A target that is no layer costs a second here, and a
    place in the queue and the loading of the base where the ranks find it.

    Raises:
        ConfigError: a target matches nothing, a rank is over a layer's size, tied weights would come apart, an earlier
            adapter has other sizes or settings, ….
        ModelError: transformers cannot build the architecture.
    """
    built: dict[Path, nn.Module] = {}
    for cell in cells:
        folder = cell.base.path
        if folder not in built:
            built[folder] = _skeleton(folder)
        method, supplies = parse_method(cell.method), Supplies(cell.sources, seed=cell.seed, base=cell.base)
        method.check_modules(built[folder], supplies)
        if cell.start is not None:
            method.rehearse_start(deepcopy(built[folder]), supplies)


def _skeleton(folder: Path) -> nn.Module:
    from tasks.models.skeleton import skeleton

    try:
        return skeleton(folder)
    except (OSError, ValueError, ImportError) as error:
        first_line = str(error).partition("\n")[0]
        raise ModelError(f"the architecture cannot be built: {first_line}", where=str(folder)) from error
