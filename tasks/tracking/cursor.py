"""How far a journal was sent, and to which run of which server. Replaced atomically and durably after every call."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.values import Value
from tasks.tracking.journal import beside
from tasks.tracking.values import RunRef

log = logging.getLogger(__name__)


class Cursor(Value):
    """Everything before `offset` is at the server or among the rejected."""

    destination: str
    """Which server the journal belongs to; see `tasks.tracking.uri.destination`."""
    offset: int = 0
    run_id: str = ""
    """Empty before the run was created, and for ever when the server refused to create it."""
    experiment: str = ""
    experiment_id: str = ""
    tables: tuple[str, ...] = ()
    """Paths of the tables sent so far: MLflow keeps them in one tag that is written as a whole."""


def read_cursor(journal: Path) -> Cursor | None:
    """The journal's cursor; None when nobody has begun to send it."""
    path = beside(journal, ".cursor.json")
    try:
        return Cursor.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s is damaged; the journal is sent again from its start, which changes nothing twice", path.name)
        return None


def write_cursor(journal: Path, cursor: Cursor) -> None:
    """Commit what was sent."""
    write_durably(beside(journal, ".cursor.json"), cursor.model_dump_json())


def run_id_of(ref: RunRef) -> str | None:
    """The MLflow run of a journal, or None before it was created there."""
    cursor = read_cursor(ref.journal)
    return (cursor.run_id or None) if cursor else None
