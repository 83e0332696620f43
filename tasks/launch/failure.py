"""`failed_rank.json`: which rank of a gang broke off first, and how. The agent writes it; the pipeline reads it."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.values import Value

NAME = "failed_rank.json"


class FailedRank(Value):
    """The first rank that ended otherwise than well; the others end for want of it."""

    rank: int
    host: str
    pid: int
    exit_code: int
    """As Python has it: minus the signal's number where a signal ended it."""
    at: float
    """When the agent saw it, in seconds since 1970."""

    def __str__(self) -> str:
        return f"rank {self.rank} on host {self.host} {self.end}"

    @property
    def end(self) -> str:
        """`was killed by SIGKILL`, or `ended with exit code 1`."""
        if self.exit_code >= 0:
            return f"ended with exit code {self.exit_code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-self.exit_code).name}"
        return f"was killed by signal {-self.exit_code}"


def write_failed_rank(folder: Path, failed: FailedRank) -> None:
    """Record it beside the request; where the agent of another node has recorded an earlier one, that stands."""
    known = read_failed_rank(folder)
    if known is None or failed.at < known.at:
        write_durably(folder / NAME, failed.model_dump_json())


def read_failed_rank(folder: Path) -> FailedRank | None:
    """The first rank that broke off; None where none did, or nobody could tell."""
    try:
        return FailedRank.model_validate_json((folder / NAME).read_bytes())
    except (OSError, ValidationError):
        return None


def forget_failed_rank(folder: Path) -> None:
    """What an earlier attempt left behind must not be taken for the next one's."""
    (folder / NAME).unlink(missing_ok=True)
