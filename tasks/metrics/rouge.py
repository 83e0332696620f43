"""ROUGE by rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar

from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._texts import words

_KINDS = ("rougeL", "rouge1", "rouge2")


class _Words:
    """rouge-score's tokenizer interface over our words."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


class Rouge(Metric):
    """`rouge1`, `rouge2`, `rougeL`: F-measures, each the best over the references, mean over prompts, from 0 to 1.

    Lin 2004 (W04-1013) as implemented by rouge-score, without stemming. Words are lower-cased runs of letters and
    digits; Chinese and Japanese count by character. A pair without a common word, also an empty one, scores 0.
    Per example: rougeL.
    """

    name: ClassVar[str] = "rouge"
    needs: ClassVar[Needs] = "generation"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "rougeL"
    libraries: ClassVar[tuple[str, ...]] = ("rouge_score",)

    def measure(self, examples: Sequence[Example]) -> Measurement:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer(_KINDS, tokenizer=_Words())
        scores = [scorer.score_multi(example.references, example.prediction) for example in examples]
        per_kind = {kind: tuple(float(score[kind].fmeasure) for score in scores) for kind in _KINDS}
        return Measurement(
            values={kind: fmean(values) for kind, values in per_kind.items()}, per_example=per_kind["rougeL"]
        )
