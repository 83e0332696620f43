"""Perplexity on the reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics.loss import Loss, perplexity_of


class Perplexity(Metric):
    """`perplexity`: exp of `loss`, so it is the geometric mean over tokens, not the mean of the rows' perplexities.

    Per example: exp of the row's own loss.
    """

    name: ClassVar[str] = "perplexity"
    needs: ClassVar[Needs] = "likelihood"
    higher_is_better: ClassVar[bool] = False
    headline: ClassVar[str] = "perplexity"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        loss = Loss().measure(examples)
        return Measurement(
            values={"perplexity": loss.values["perplexity"]},
            per_example=tuple(perplexity_of(value) for value in loss.per_example),
        )
