"""Default learning rates: one per method and size, because one rate for all compares rates, not methods."""

from __future__ import annotations

import math

from tasks.models.values import BaseModelFacts

SMALL_PARAMETERS = 5_000_000
LARGE_PARAMETERS = 100_000_000


def rate_between(facts: BaseModelFacts, *, small: float, large: float) -> float:
    """`small` up to 5 M parameters, `large` from 100 M, and a straight line of log rate over log parameters between.

    Both ends are measured ranges (docs/methods.md); the line between them is a convention that avoids a jump. Two
    significant digits.
    """
    span = math.log(LARGE_PARAMETERS / SMALL_PARAMETERS)
    share = min(1.0, max(0.0, math.log(max(facts.parameters, 1) / SMALL_PARAMETERS) / span))
    rate: float = small ** (1 - share) * large**share
    digits = 1 - math.floor(math.log10(rate))
    return round(rate, digits)
