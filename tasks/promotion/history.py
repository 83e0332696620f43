"""The promotion log as a person reads it, and whether it still says what is so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from tasks.foundation.values import Value
from tasks.promotion.ask import Ask
from tasks.promotion.entries import CHANGES, Entry, finished_changes, open_change
from tasks.promotion.examine import read_evidence
from tasks.promotion.promote import Desk, scratch
from tasks.registry.registered import CHAMPION
from tasks.registry.server import PACKAGE_TAG


class Line(Value):
    """One change or request of the history."""

    number: int
    at: str
    action: str
    version: int | None
    instead_of: int | None
    who: str
    approved_by: str
    outcome: str
    reason: str


def history(ask: Ask) -> list[Line]:
    """All changes and requests of a model, the oldest first.

    Raises:
        ConfigError: there is no such model.
        IntegrityError: the log was changed.
    """
    desk = Desk(ask)
    desk.model.standing()
    return lines_of(desk.log.read(), datetime.now(UTC))


def lines_of(entries: Sequence[Entry], now: datetime) -> list[Line]:
    """What an entry began, with what became of it."""
    return [_line(entry, entries, now) for entry in entries if entry.action in {*CHANGES, "requested"}]


def _line(entry: Entry, entries: Sequence[Entry], now: datetime) -> Line:
    return Line(
        number=entry.number,
        at=entry.at,
        action=entry.action,
        version=entry.version,
        instead_of=entry.before.champion if entry.before else None,
        who=entry.author.who,
        approved_by=entry.approved_by,
        outcome=_outcome(entry, entries, now),
        reason=entry.reason,
    )


def _outcome(entry: Entry, entries: Sequence[Entry], now: datetime) -> str:
    end = next((each for each in entries if each.closes == entry.number), None)
    if entry.action == "requested":
        if end is None:
            until = datetime.fromisoformat(entry.until)
            return "no answer in time" if now > until else f"open until {until:%m-%d %H:%M}"
        return f"{end.action} by {end.author.who}: {end.reason}"
    if end is None:
        return "open"
    return {"done": "done", "recover": "undone"}.get(end.action, f"undone: {end.reason}")


def verify(ask: Ask) -> list[str]:
    """What is not as the log says; nothing where all is. (A broken chain is raised by reading the log.)

    Raises:
        ConfigError: there is no such model.
        IntegrityError: the log was changed.
    """
    desk = Desk(ask)
    standing, entries = desk.model.standing(), desk.log.read()
    changes = finished_changes(entries)
    last = changes[-1] if changes else None
    found: list[str] = []
    if (begun := open_change(entries)) is not None:
        found.append(f"entry {begun.number} was begun and has no end; the next promotion or rollback undoes it")
    elif last is not None and last.after != standing:
        said = last.after.champion if last.after else None
        found.append(f"the log says @{CHAMPION} is version {said}, it stands at {standing.champion}: moved by hand")
    for change in changes:
        found += _about_evidence(desk, change, ask)
    return found


def _about_evidence(desk: Desk, change: Entry, ask: Ask) -> list[str]:
    """Whether the evidence of a promotion is there, unchanged, about that package, and passed."""
    if not change.evidence or change.version is None:
        return []
    version = desk.model.version(change.version)
    with scratch(ask.runs) as folder:
        evidence = read_evidence(desk.model, version, change.evidence, folder)
    found = []
    if not evidence.passed:
        found.append(f"entry {change.number}: its evidence did not pass")
    if evidence.package_digest != change.package:
        found.append(f"entry {change.number}: its evidence is about another package")
    if version.tags.get(PACKAGE_TAG) != change.package:
        found.append(f"entry {change.number}: version {change.version} carries another package's tag by now")
    return found
