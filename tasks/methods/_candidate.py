"""A base model with what a method made of it: the thing that is merged, evaluated, compared and registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.foundation.values import Value
from tasks.methods._source import Holds
from tasks.models.values import BaseModel


class Candidate(Value):
    """Everything needed to load it in any process."""

    label: str
    base: BaseModel
    method: dict[str, Any]
    """The method's resolved settings, with `kind`."""
    weights: Path | None = None
    """Folder of the adapter or of the whole model; None for the untuned base."""
    holds: Holds
