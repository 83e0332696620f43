"""What a benchmark returns: figures with every single measurement, and the goal that stands in the table."""

from __future__ import annotations

import statistics

from tasks.foundation.values import Value


class Goal(Value):
    """A limit on the ratio (ours / theirs) or, with `of_value`, on our own median."""

    at_most: float | None = None
    at_least: float | None = None
    of_value: bool = False

    def met_by(self, figure: Figure) -> bool | None:
        """Whether a figure keeps to it; None where there is nothing to judge."""
        found = figure.median if self.of_value else figure.ratio
        if found is None:
            return None
        return (self.at_most is None or found <= self.at_most) and (self.at_least is None or found >= self.at_least)

    def text(self, unit: str) -> str:
        """`<= 1.02 x` or `>= 0.9999 share`."""
        sign, limit = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least)
        return f"{sign} {limit:g} {unit if self.of_value else 'x'}"


class Figure(Value):
    """One quantity of tuneline and, where there is one, the same quantity of what it is compared with."""

    name: str
    unit: str
    ours: tuple[float, ...]
    """One measurement per repetition."""
    against: str = ""
    """What it is compared with."""
    theirs: tuple[float, ...] = ()
    goal: Goal | None = None
    note: str = ""

    @property
    def median(self) -> float:
        """Of our measurements."""
        return statistics.median(self.ours)

    @property
    def their_median(self) -> float | None:
        """Of theirs, if there are any."""
        return statistics.median(self.theirs) if self.theirs else None

    @property
    def ratio(self) -> float | None:
        """Ours / theirs, of the medians."""
        return self.median / self.their_median if self.their_median else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        return self.goal.met_by(self) if self.goal else None
