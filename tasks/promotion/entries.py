"""The promotion log: what was asked for, approved, begun, done and undone, each entry chained to the one before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, ValidationError

from tasks.foundation.digests import canonical_json, digest_text
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.promotion.ask import REASON_CHARACTERS
from tasks.registry.registered import Standing

Action = Literal["requested", "approved", "rejected", "promote", "rollback", "recover", "done", "undone"]
CHANGES = frozenset({"promote", "rollback", "recover"})
"""Entries that begin a change of the aliases; `done` or `undone` ends it, and so does a `recover`."""


class Author(Value):
    """Who did it, as far as it is known: neither MLflow nor Prefect tells one person from another by itself."""

    who: str
    """`user@host`, or the name that was typed into Prefect's form."""
    process: str = ""
    """`<pid>@<start>@<host>`, by which another process tells whether this one still lives."""
    flow_run: str = ""
    """Prefect's id of the flow run."""


class Draft(Value):
    """An entry before it has a number."""

    action: Action
    model: str
    version: int | None = None
    """The version that is, or is to become, the champion."""
    before: Standing | None = None
    """Where the aliases stood."""
    after: Standing | None = None
    """Where they are to stand."""
    closes: int = 0
    """The entry that this one answers or ends."""
    author: Author
    approved_by: str = ""
    reason: str = Field(default="", max_length=REASON_CHARACTERS)
    until: str = ""
    """Of a request: by when it has to be answered, ISO 8601, UTC."""
    evidence: str = ""
    """sha256 of the gate's evidence."""
    package: str = ""
    """sha256 of the version's package."""
    at: str
    """ISO 8601, UTC, by the author's clock: for people. The order is that of the numbers."""
    nonce: str
    """Random: no two entries are the same text."""


class Entry(Draft):
    """A line of the log."""

    number: int
    chain: str
    """sha256 of the text of the entry before; empty for the first."""

    @property
    def text(self) -> str:
        """As it is stored."""
        return canonical_json(self)


def linked(draft: Draft, texts: Sequence[str]) -> Entry:
    """The draft as the next entry after these."""
    chain = digest_text(texts[-1]) if texts else ""
    return Entry(**draft.model_dump(), number=len(texts) + 1, chain=chain)


def parse(texts: Sequence[str], model: str) -> list[Entry]:
    """Entries with an unbroken chain.

    Raises:
        IntegrityError: an entry is unreadable, of another model, or not the one that its successor was chained to.
    """
    entries: list[Entry] = []
    chain = ""
    for number, text in enumerate(texts, 1):
        try:
            entry = Entry.model_validate_json(text)
        except ValidationError as error:
            raise _broken(model, f"entry {number} cannot be read") from error
        if (entry.number, entry.model, entry.text) != (number, model, text):
            raise _broken(model, f"entry {number} is not its own: it says {entry.number} of {entry.model}")
        if entry.chain != chain:
            raise _broken(model, f"entry {number} does not follow entry {number - 1}: one of the two was changed")
        chain = digest_text(text)
        entries.append(entry)
    return entries


def _broken(model: str, what: str) -> IntegrityError:
    fix = "Compare with a backup of MLflow's database; nothing is promoted until the log is whole"
    return IntegrityError(what, where=f"promotion log of {model}", fix=fix)


def open_change(entries: Sequence[Entry]) -> Entry | None:
    """The change that was begun and has no end; there is at most one."""
    begun: Entry | None = None
    for entry in entries:
        if entry.action in CHANGES:
            begun = entry
        elif entry.action in ("done", "undone") and begun and entry.closes == begun.number:
            begun = None
    return begun


def finished_changes(entries: Sequence[Entry]) -> list[Entry]:
    """Promotions and rollbacks that came into force, in their order."""
    done = {entry.closes for entry in entries if entry.action == "done"}
    return [entry for entry in entries if entry.action in ("promote", "rollback") and entry.number in done]


def champions(entries: Sequence[Entry]) -> list[int]:
    """The versions that a rollback can return to, the present champion last.

    A promotion puts its version on top. A rollback takes away what it leaves behind: the next one goes further back,
    not to the version that was just found bad.
    """
    stack: list[int] = []
    for entry in finished_changes(entries):
        seen = entry.before.champion if entry.before else None
        if seen is not None and (not stack or stack[-1] != seen):
            stack.append(seen)  # an alias that was moved by hand, or stood before the log began
        if entry.version is None:
            continue
        if entry.action == "rollback" and entry.version in stack:
            del stack[len(stack) - stack[::-1].index(entry.version) :]
        elif not stack or stack[-1] != entry.version:
            stack.append(entry.version)
    return stack
