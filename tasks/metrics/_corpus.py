"""What BLEU and chrF share: corpora with a varying number of references, measured by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.foundation.errors import DataError
from tasks.metrics._base import Example, Measurement


def corpus_measurement(name: str, examples: Sequence[Example], corpus: Any, sentence: Any) -> Measurement:
    """The corpus score, each sentence's own score, and the signature of the corpus score.

    Args:
        name: the aggregate's name.
        examples: predictions with one or more references each.
        corpus: a sacrebleu metric for the corpus.
        sentence: the same metric, set up for single sentences.

    Raises:
        DataError: an example without a reference.
    """
    for example in examples:
        if not any(reference.strip() for reference in example.references):
            raise DataError(f"{name} needs a reference that is not empty", where=f"prompt {example.id}")
    score = corpus.corpus_score([example.prediction for example in examples], _streams(examples))
    sentences = (sentence.sentence_score(example.prediction, list(example.references)) for example in examples)
    return Measurement(
        values={name: float(score.score)},
        per_example=tuple(float(result.score) for result in sentences),
        signature=str(corpus.get_signature()),
    )


def _streams(examples: Sequence[Example]) -> list[list[str | None]]:
    """The i-th stream holds each example's i-th reference, or None where it has fewer."""
    width = max(len(example.references) for example in examples)
    return [
        [example.references[index] if index < len(example.references) else None for example in examples]
        for index in range(width)
    ]
