"""`recipe.json` beside trained weights: which method made them, on which base, from which earlier results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.digests import canonical_json
from tasks.foundation.values import Value
from tasks.methods import without_references
from tasks.training.values import Cell

RECIPE = "recipe.json"
_NAMES = frozenset({"name"})
"""What a method is called; it decides nothing."""


class Recipe(Value):
    """It names content only: the same cell leaves the same one wherever it trains."""

    method: dict[str, Any] | None = None
    """Resolved settings, with the digests of sources in the place of references; None where no record kept them."""
    base_digest: str
    sources: dict[str, str] = Field(default_factory=dict)
    """What `Method.sources` names -> sha256 of what it was."""


def recipe_of(cell: Cell) -> Recipe:
    """The recipe that stays with what a cell trains."""
    settings = without_references(cell.method, cell.sources)
    return Recipe(
        method={name: value for name, value in settings.items() if name not in _NAMES},
        base_digest=cell.base.digest,
        sources={name: source.digest for name, source in cell.sources.items()},
    )


def write_down(recipe: Recipe, folder: Path) -> None:
    """Leave a recipe beside the folder of the weights."""
    write_durably(folder / RECIPE, canonical_json(recipe) + "\n")


def read_recipe(folder: Path) -> Recipe | None:
    """The recipe in a folder, or None where there is none."""
    try:
        return Recipe.model_validate_json((folder / RECIPE).read_bytes())
    except (OSError, ValidationError):
        return None
