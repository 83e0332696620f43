"""One cell as flat arguments, as Prefect's form has them: they become an experiment of one method."""

from __future__ import annotations

import re
from typing import Any, Final

from configs.document import Document, KeyPath
from configs.experiment import NAME_LENGTH
from tasks.foundation.values import Value

_COMMIT = re.compile(r"(?P<name>.+)@(?P<revision>[0-9a-f]{40})")
_ARGUMENTS: Final[dict[str, KeyPath]] = {
    "base": ("model",),
    "method": ("methods", 0),
    "learning_rate": ("methods", 0, "learning_rate"),
    "data": ("data",),
    "max_steps": ("training", "max_steps"),
    "seed": ("training", "seeds"),
    "register_as": ("registry", "model"),
}
"""Argument -> the key that it sets: a message names the argument that somebody filled in."""


class OneCell(Value):
    """A base model, a method, data and a seed."""

    base: str
    """A folder, `embedded:tiny-llama`, or a hub id with its commit (`NAME@<40 hex digits>`)."""
    method: str
    """A method's kind, with its own defaults."""
    data: str
    """Training rows; `data.eval_fraction` of them is held out."""
    seed: int = 0
    max_steps: int = 0
    """0: `training.num_train_epochs` decides."""
    learning_rate: float = 0.0
    """0.0: the method's own."""
    register_as: str = ""
    """Registered model that gets a new version; empty: none."""


def document_of(cell: OneCell) -> Document:
    """What an experiment file with the same content would be read as."""
    commit = _COMMIT.fullmatch(cell.base)
    method: dict[str, Any] = {"kind": cell.method}
    training: dict[str, Any] = {"seeds": [cell.seed]}
    if cell.learning_rate:
        method["learning_rate"] = cell.learning_rate
    if cell.max_steps:
        training["max_steps"] = cell.max_steps
    data: dict[str, Any] = {
        "name": _name_of(cell),
        "model": {"name_or_path": commit["name"], "revision": commit["revision"]}
        if commit
        else {"name_or_path": cell.base},
        "data": {"train": cell.data},
        "methods": [method],
        "training": training,
    }
    if cell.register_as:
        data["registry"] = {"model": cell.register_as}
    origins = {path: f"argument {name}" for name, path in _ARGUMENTS.items()}
    return Document("fine-tune", data, origins)


def _name_of(cell: OneCell) -> str:
    """Says what it is, in the letters that a name may have."""
    parts = ("fine-tune", cell.method, _last(cell.data), "on", _last(cell.base.partition("@")[0]), str(cell.seed))
    words = (re.sub(r"[^a-z0-9._-]+", "-", part.lower()).strip("._-") for part in parts)
    return "-".join(word for word in words if word)[:NAME_LENGTH]


def _last(text: str) -> str:
    return re.split(r"[/:]", text.rstrip("/"))[-1]
