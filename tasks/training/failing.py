"""`failure.json`: why a rank broke off. The first word of those that know it stands; the others only lost a peer."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.errors import CancelledRunError, ErrorRecord, RankError, TunelineError

FAILURE = "failure.json"

_WEAK = (TunelineError.exit_code, RankError.exit_code, CancelledRunError.exit_code)
_PEER_TEXTS = ("gloo/transport", "Connection closed by peer", "Connection reset by peer")
"""What gloo says in a plain RuntimeError when the rank at the other end is gone."""


def is_weak(record: ErrorRecord) -> bool:
    """It may be the consequence of another rank's end, which the launcher answers with SIGTERM to all."""
    return record.exit_code in _WEAK


def write_failure(work: Path, record: ErrorRecord) -> None:
    """Record it, unless what is there already says more: a cause stands, a consequence gives way to a cause."""
    try:
        with (work / FAILURE).open("x", encoding="utf-8") as file:
            file.write(record.model_dump_json())
    except FileExistsError:
        known = read_failure(work)
        if known is None or (is_weak(known) and not is_weak(record)):
            write_durably(work / FAILURE, record.model_dump_json())


def read_failure(work: Path) -> ErrorRecord | None:
    """What a rank recorded; None where none did, or it was killed while it wrote."""
    try:
        return ErrorRecord.model_validate_json((work / FAILURE).read_bytes())
    except (OSError, ValidationError):
        return None


def lost_peer(error: Exception) -> RankError | None:
    """The cause of an error in a collective whose other end is gone; None for anything else."""
    if isinstance(error, TunelineError):
        return None
    if not (type(error).__name__.startswith("Dist") or any(text in str(error) for text in _PEER_TEXTS)):
        return None
    first_line = str(error).partition("\n")[0]
    return RankError(f"another rank is gone ({first_line})", fix="Run it again to go on from the last checkpoint")
