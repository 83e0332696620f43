"""Macro F1 of the label that the model finds most likely."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs


class MacroF1(Metric):
    """`f1`: the unweighted mean of F1 over the labels, from 0 to 1.

    The mean runs over every label that is true or chosen somewhere; F1 = 2 tp / (2 tp + fp + fn), which is defined for
    each of them, and 0 for one that is never right. Per example: 1 when the choice is right, else 0.
    """

    name: ClassVar[str] = "f1"
    needs: ClassVar[Needs] = "choice"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "f1"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        labels = sorted({example.label for example in examples} | {example.chosen for example in examples})
        scores = tuple(float(example.chosen == example.label) for example in examples)
        return Measurement(values={"f1": fmean(_f1(examples, label) for label in labels)}, per_example=scores)


def _f1(examples: Sequence[Example], label: str) -> float:
    hits = sum(example.label == label == example.chosen for example in examples)
    true = sum(example.label == label for example in examples)
    chosen = sum(example.chosen == label for example in examples)
    return 2 * hits / (true + chosen)
