"""A rule of the experiment that does not hold, and how several of them pass through pydantic."""

from __future__ import annotations

from collections.abc import Sequence

from configs.document import KeyPath
from tasks.foundation.values import Value


class BrokenRule(Value):
    """One rule that does not hold; `path` is the key to change."""

    path: KeyPath
    what: str
    allowed: str = ""
    fix: str = ""


class BrokenRulesError(ValueError):
    """Carries broken rules through pydantic, which knows texts only."""

    def __init__(self, rules: Sequence[BrokenRule]) -> None:
        super().__init__("; ".join(rule.what for rule in rules))
        self.rules = tuple(rules)
