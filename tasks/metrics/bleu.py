"""BLEU by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._corpus import corpus_measurement
from tasks.metrics._texts import mostly_chinese


class Bleu(Metric):
    """`bleu`: sacrebleu's corpus BLEU against all references, from 0 to 100 (Post 2018, arXiv 1804.08771).

    Tokenizer `13a`, or `zh` when more than half of the references' letters are Chinese; the signature says which.
    Per example: sentence BLEU with effective order, so a short sentence has a defined score. An empty prediction
    scores 0.
    """

    name: ClassVar[str] = "bleu"
    needs: ClassVar[Needs] = "generation"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "bleu"
    libraries: ClassVar[tuple[str, ...]] = ("sacrebleu",)

    def measure(self, examples: Sequence[Example]) -> Measurement:
        from sacrebleu.metrics import BLEU

        chinese = mostly_chinese(reference for example in examples for reference in example.references)
        tokenize = "zh" if chinese else "13a"
        sentence = BLEU(tokenize=tokenize, effective_order=True)
        return corpus_measurement("bleu", examples, BLEU(tokenize=tokenize), sentence)
