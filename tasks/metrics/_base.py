"""The one shape of every metric: per-example scores and one value over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from tasks.foundation.values import Value

Needs = Literal["likelihood", "generation", "choice"]


class Example(Value):
    """What the engine found out about one unit: a row (likelihood), or a prompt (generation, choice)."""

    id: str
    prompt: str
    references: tuple[str, ...]
    """Every accepted answer, the row's own first."""
    prediction: str = ""
    """Greedy answer, stripped (generation)."""
    loss_sum: float = 0.0
    """Cross-entropy summed over the answer's tokens, in nats (likelihood)."""
    tokens: int = 0
    """Answer tokens counted in `loss_sum`."""
    label: str = ""
    """The true label (choice)."""
    chosen: str = ""
    """The label with the highest likelihood (choice)."""


class Measurement(Value):
    """Aggregates by name (one metric may report several, the first is its headline) and one score per example."""

    values: dict[str, float]
    per_example: tuple[float, ...]
    signature: str = ""
    """The exact variant that was computed, where a library gives it a name (`nrefs:var|case:mixed|…`)."""


class Metric:
    """One file in this package holds one class below this one; it is found by `name`."""

    name: ClassVar[str]
    needs: ClassVar[Needs]
    higher_is_better: ClassVar[bool]
    headline: ClassVar[str]
    """Name of the aggregate that stands for the metric in tables and decides the winner (`rouge` -> `rougeL`)."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions whose version decides the value: part of the evaluation's key."""

    def measure(self, examples: Sequence[Example]) -> Measurement:
        """Score all examples. `examples` is never empty.

        Raises:
            DataError: the value is not defined on these examples; NaN is never returned.
        """
        raise NotImplementedError
