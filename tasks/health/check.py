"""The one shape of every finding."""

from __future__ import annotations

from tasks.foundation.values import Value


class Check(Value):
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    fix: str = ""
    """What to do; empty when it is ok."""


def judged(name: str, ok: bool, detail: str, fix: str) -> Check:
    """A finding that says what to do only where there is something to do."""
    return Check(name=name, ok=ok, detail=detail, fix="" if ok else fix)
