"""Move the champion: one change at a time, on whatever machines they are asked for, and whole or not at all.

MLflow sets an alias without asking where it stood. So a change begins with an entry in the promotion log, whose next
number only one can write (`tasks.registry.ledger`): whoever has written it may move the aliases, everybody else waits
for the entry that ends it. A change that ends without one (its process died) is taken over by a `recover` entry, which
puts the aliases back where they stood.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tasks.foundation.errors import ConflictError, TunelineError
from tasks.foundation.faults import reach
from tasks.foundation.values import Value
from tasks.promotion.entries import Draft, Entry, open_change
from tasks.promotion.log import Log, acting, is_dead, nonce, stamp
from tasks.registry.registered import CHAMPION, PREVIOUS, RegisteredModel

log = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
"""A change of another host that has not ended after so long is taken for dead: moving aliases takes milliseconds."""
_WRITING_SECONDS = LEASE_SECONDS / 3
"""Whoever moves aliases stops writing so long after the beginning: nobody may have taken over by then."""
_LOOK_SECONDS = 0.2


class Change(Value):
    """What is asked for."""

    draft: Draft
    """The entry that begins it; its `before` is written when it begins."""
    expected: int | None
    """The champion that the change was decided on."""


class Switch:
    """Changes of one model's aliases."""

    def __init__(
        self,
        model: RegisteredModel,
        promotions: Log,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._model = model
        self._log = promotions
        self._clock = clock
        self._sleep = sleep

    def change(self, change: Change) -> Entry:
        """Bring a change into force; returns the entry that began it.

        Raises:
            ConflictError: the champion is not the expected one any more; nothing was changed.
            TunelineError: the server failed in between; the aliases stand where they stood, or the next change puts
                them back there.
        """
        begun = self._begin(change)
        deadline = self._clock() + _WRITING_SECONDS
        try:
            self._apply(begun, deadline)
            reach("promote.done")
            self._close(begun, "done")
        except BaseException as error:
            self._put_back(begun, deadline, error)
            raise
        return begun

    def _begin(self, change: Change) -> Entry:
        while True:
            entries = self._quiet()
            standing = self._model.standing()
            if standing.champion != change.expected:
                raise _moved(self._model.name, change.expected, standing.champion, entries)
            draft = change.draft.model_copy(update={"before": standing, "nonce": nonce(), "at": stamp()})
            reach("promote.begin")
            begun = self._log.try_append(draft, after=len(entries))
            if begun is not None:
                return begun

    def _quiet(self) -> list[Entry]:
        """The log at a moment when nobody is changing anything; a change whose process is gone is undone first."""
        seen, since = 0, self._clock()
        while True:
            entries = self._log.read()
            begun = open_change(entries)
            if begun is None:
                return entries
            if begun.number != seen:
                seen, since = begun.number, self._clock()
            if is_dead(begun.author) or self._clock() - since > LEASE_SECONDS:
                self._recover(begun, len(entries))
            else:
                self._sleep(_LOOK_SECONDS)

    def _recover(self, dead: Entry, after: int) -> None:
        """Put the aliases back to where they stood before a change that nobody ends any more."""
        draft = Draft(
            action="recover",
            model=dead.model,
            version=dead.before.champion if dead.before else None,
            before=self._model.standing(),
            after=dead.after if dead.action == "recover" else dead.before,
            closes=dead.number,
            author=acting(),
            reason=f"the process of entry {dead.number} is gone",
            at=stamp(),
            nonce=nonce(),
        )
        recovering = self._log.try_append(draft, after=after)
        if recovering is None:
            return  # somebody else does it
        log.warning("%s: entry %d was left open by a dead process; it is undone", dead.model, dead.number)
        self._apply(recovering, self._clock() + _WRITING_SECONDS)
        self._close(recovering, "done")

    def _apply(self, begun: Entry, deadline: float) -> None:
        """Move both aliases and look whether they stand."""
        if begun.after is None:
            raise ValueError("a change without a goal")
        reach("promote.previous")
        self._move(PREVIOUS, begun.after.previous, deadline)
        reach("promote.champion")
        self._move(CHAMPION, begun.after.champion, deadline)
        if (found := self._model.standing()) != begun.after:
            what = f"{begun.model}@{CHAMPION} stands at version {found.champion}, not {begun.after.champion}"
            raise ConflictError(what, fix="Somebody moves aliases by hand; promote again when that is over")

    def _move(self, alias: str, version: int | None, deadline: float) -> None:
        standing = self._model.standing()
        if {CHAMPION: standing.champion, PREVIOUS: standing.previous}[alias] == version:
            return
        if self._clock() > deadline:
            what = f"{self._model.name}: moving the alias took longer than {_WRITING_SECONDS:.0f} s"
            raise ConflictError(what, fix="Look whether MLflow is overloaded, and promote again")
        self._model.set_alias(alias, version)

    def _put_back(self, begun: Entry, deadline: float, error: BaseException) -> None:
        """The old aliases again; where that fails too, the open entry tells the next change to do it."""
        try:
            if open_change(self._log.read()) != begun:
                return  # its end is written, only the answer was lost
            log.error("%s: entry %d is undone: %s", begun.model, begun.number, error)
            if begun.before is not None:
                self._move(CHAMPION, begun.before.champion, deadline)
                self._move(PREVIOUS, begun.before.previous, deadline)
            self._close(begun, "undone", str(error))
        except TunelineError as failure:
            log.error("%s: entry %d stays open until the next change: %s", begun.model, begun.number, failure)

    def _close(self, begun: Entry, how: str, reason: str = "") -> None:
        facts = {"action": how, "closes": begun.number, "reason": reason[:500], "at": stamp(), "nonce": nonce()}
        kept = begun.model_dump(include={"model", "version", "before", "after", "author", "package", "evidence"})
        self._log.append(Draft.model_validate(kept | facts))


def _moved(model: str, expected: int | None, found: int | None, entries: list[Entry]) -> ConflictError:
    by = next((entry for entry in reversed(entries) if entry.action == "done"), None)
    who = f" (entry {by.closes} by {by.author.who})" if by else ""
    now = f"version {found} is its champion now{who}" if found else "it has no champion any more"
    was = f"version {expected}" if expected else "no champion"
    return ConflictError(f"{model} was decided on {was}, but {now}", fix="Nothing was changed; look and promote again")
