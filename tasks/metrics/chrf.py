"""chrF by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._corpus import corpus_measurement


class Chrf(Metric):
    """`chrf`: sacrebleu's corpus chrF2 against all references, from 0 to 100 (Popović 2015, W15-3049).

    Characters need no tokenizer, so it is the same for Chinese. Per example: sentence chrF. An empty prediction
    scores 0.
    """

    name: ClassVar[str] = "chrf"
    needs: ClassVar[Needs] = "generation"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "chrf"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def measure(self, examples: Sequence[Example]) -> Measurement:
        from sacrebleu.metrics import CHRF

        return corpus_measurement("chrf", examples, CHRF(), CHRF())
