"""Is the challenger better than the champion? An interval of the paired difference, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tasks.foundation.values import Value

RESAMPLES = 9999
"""Of the bootstrap: the ends of a 95% interval then move by less than a hundredth of its width between seeds."""
_AT_ONCE = 2_000_000
"""Numbers that a batch of resamples holds at a time."""


class Interval(Value):
    """Of the mean improvement per row; above 0 the challenger is better."""

    rows: int
    mean: float
    low: float
    high: float
    confidence: float


def improvement(
    challenger: Mapping[str, float], champion: Mapping[str, float], *, higher_is_better: bool, confidence: float
) -> Interval:
    """The percentile bootstrap interval of the mean paired difference (Efron and Tibshirani 1993, chapter 13).

    Rows are resampled, each with both of its scores, so what makes a row hard for both models cancels. The seed is
    fixed: the same scores give the same interval.

    Args:
        challenger: id of the row -> score.
        champion: the same rows.
        confidence: of the two-sided interval, between 0 and 1.

    Raises:
        ValueError: the rows differ, there are fewer than two, or a score is not finite.
    """
    if challenger.keys() != champion.keys():
        raise ValueError(f"{len(challenger.keys() ^ champion.keys())} rows were scored for one of the two only")
    sign = 1.0 if higher_is_better else -1.0
    differences = [sign * (score - champion[row]) for row, score in sorted(challenger.items())]
    if len(differences) < 2:
        raise ValueError("fewer than two rows have no interval")
    if not all(math.isfinite(difference) for difference in differences):
        raise ValueError("a score is not finite")
    low, high = _ends(differences, confidence)
    mean = math.fsum(differences) / len(differences)
    return Interval(rows=len(differences), mean=mean, low=low, high=high, confidence=confidence)


def _ends(differences: list[float], confidence: float) -> tuple[float, float]:
    if min(differences) == max(differences):  # nothing varies: SciPy has no interval for that
        return differences[0], differences[0]
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(differences),),
        np.mean,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=max(1, _AT_ONCE // len(differences)),
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
