"""Cross-entropy on the reference answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from tasks.foundation.errors import DataError
from tasks.metrics._base import Example, Measurement, Metric, Needs


class Loss(Metric):
    """`loss`: cross-entropy in nats per answer token: the sum over all tokens of all rows / their number.

    Long answers weigh more than short ones, as in training. Per example: the mean over the row's own tokens.
    `perplexity`: exp(loss).
    """

    name: ClassVar[str] = "loss"
    needs: ClassVar[Needs] = "likelihood"
    higher_is_better: ClassVar[bool] = False
    headline: ClassVar[str] = "loss"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        for example in examples:
            if example.tokens < 1:
                raise DataError("no answer token counts for the loss", where=f"row {example.id}")
        loss = math.fsum(example.loss_sum for example in examples) / sum(example.tokens for example in examples)
        return Measurement(
            values={"loss": loss, "perplexity": perplexity_of(loss)},
            per_example=tuple(example.loss_sum / example.tokens for example in examples),
        )


def perplexity_of(loss: float) -> float:
    """exp(loss).

    Raises:
        DataError: the loss is above 709 nats per token, where a float ends.
    """
    try:
        return math.exp(loss)
    except OverflowError:
        raise DataError(f"a loss of {loss:.4g} nats per token has no finite perplexity") from None
