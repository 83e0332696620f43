"""Accuracy of the label that the model finds most likely."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs


class Accuracy(Metric):
    """`accuracy`: share of prompts whose most likely label is the true one, from 0 to 1. Per example: 1 or 0."""

    name: ClassVar[str] = "accuracy"
    needs: ClassVar[Needs] = "choice"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "accuracy"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        scores = tuple(float(example.chosen == example.label) for example in examples)
        return Measurement(values={"accuracy": fmean(scores)}, per_example=scores)
