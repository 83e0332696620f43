"""Exact match of the generated answer."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._texts import one_space


class ExactMatch(Metric):
    """`exact_match`: share of prompts whose answer equals any of the references, from 0 to 1.

    Both sides are whitespace-normalised first: runs of whitespace become one space, both ends are stripped. Case,
    punctuation and Unicode form are left as they are.
    """

    name: ClassVar[str] = "exact_match"
    needs: ClassVar[Needs] = "generation"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "exact_match"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        scores = tuple(float(_matches(example)) for example in examples)
        return Measurement(values={"exact_match": fmean(scores)}, per_example=scores)


def _matches(example: Example) -> bool:
    return one_space(example.prediction) in {one_space(reference) for reference in example.references}
