"""The log of one model as it stands on the server, and the anchor that this machine keeps of it."""

from __future__ import annotations

import getpass
import secrets
from datetime import UTC, datetime
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.digests import canonical_json, digest_text
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.launch.ownership import owner_named, this_process
from tasks.promotion.entries import Author, Draft, Entry, linked, parse
from tasks.registry.ledger import Ledger

_TRIES = 50
"""Others may append between our look and our own entry, but not for ever."""


class Anchor(Value):
    """What this machine has last seen of a log: a log that was rewritten since does not hold it any more."""

    number: int
    digest: str


class Log:
    """Reads and appends."""

    def __init__(self, ledger: Ledger, model: str, anchors: Path) -> None:
        """`anchors`: a folder of this machine, where what was seen is remembered."""
        self.model = model
        self._ledger = ledger
        self._anchor = anchors / f"{digest_text(model)[:16]}.json"

    def read(self) -> list[Entry]:
        """All entries, verified: the chain, and that it still holds what this machine saw last.

        Raises:
            IntegrityError: an entry was changed, taken out, or the log was rewritten.
        """
        texts = self._ledger.read()
        entries = parse(texts, self.model)
        self._check_anchor(texts)
        return entries

    def try_append(self, draft: Draft, after: int) -> Entry | None:
        """Append as the next entry after number `after`; None where somebody else has appended meanwhile."""
        texts = self._ledger.read()
        if len(texts) != after:
            return None
        entry = linked(draft, texts)
        if not self._ledger.append(entry.number, entry.text):
            return None
        self._remember(Anchor(number=entry.number, digest=digest_text(entry.text)))
        return entry

    def append(self, draft: Draft) -> Entry:
        """Append, whoever else appends meanwhile.

        Raises:
            IntegrityError: it did not come to its turn.
        """
        for _ in range(_TRIES):
            entry = self.try_append(draft, len(self._ledger.read()))
            if entry is not None:
                return entry
        raise IntegrityError(f"others append to the promotion log of {self.model} without a pause", fix="Try again")

    def _check_anchor(self, texts: list[str]) -> None:
        if self._anchor.exists():
            seen = Anchor.model_validate_json(self._anchor.read_bytes())
            if len(texts) < seen.number or digest_text(texts[seen.number - 1]) != seen.digest:
                raise IntegrityError(
                    f"the promotion log of {self.model} was rewritten: entry {seen.number} is not what it was",
                    where=str(self._anchor),
                    fix="Compare with a backup of MLflow's database. Remove this file if the rewriting was meant",
                )
        if texts:
            self._remember(Anchor(number=len(texts), digest=digest_text(texts[-1])))

    def _remember(self, anchor: Anchor) -> None:
        self._anchor.parent.mkdir(parents=True, exist_ok=True)
        write_durably(self._anchor, canonical_json(anchor) + "\n")


def acting(who: str = "", flow_run: str = "") -> Author:
    """Who acts now, through this process.

    Args:
        who: the name that was given; the system's user where there is none.
        flow_run: Prefect's id of the flow run.
    """
    owner = this_process()
    return Author(who=who or f"{getpass.getuser()}@{owner.host}", process=str(owner), flow_run=flow_run)


def is_dead(author: Author) -> bool:
    """Whether the author's process is known to be gone; of another host nothing is known."""
    owner = owner_named(author.process)
    return owner is not None and owner.is_here and not owner.lives


def stamp() -> str:
    """Now, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def nonce() -> str:
    """16 hex digits."""
    return secrets.token_hex(8)
