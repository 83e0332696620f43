"""The files of an evaluation: scores.json, predictions.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tasks.artifacts import Artifact
from tasks.evaluation.values import EvaluatedCell, Prediction, Sample, Scores
from tasks.foundation.digests import canonical_json

SCORES = "scores.json"
PREDICTIONS = "predictions.jsonl"


def write_records(folder: Path, scores: Scores, predictions: Iterable[Prediction]) -> None:
    """Fill the folder; equal values give equal bytes."""
    (folder / SCORES).write_text(canonical_json(scores) + "\n", encoding="utf-8", newline="\n")
    with (folder / PREDICTIONS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(canonical_json(prediction) + "\n" for prediction in predictions)


def read_predictions(folder: Path) -> Iterator[Prediction]:
    """The lines of predictions.jsonl, in the order of the evaluation rows."""
    with (folder / PREDICTIONS).open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield Prediction.model_validate_json(line)


def read_evaluated(artifact: Artifact, samples: int) -> EvaluatedCell:
    """What the artifact says, with a few predictions.

    The samples are those with the smallest prompt digests: the same prompts for every cell, and a larger number adds
    to them. A prompt without a generated answer shows the chosen label.
    """
    scores = Scores.model_validate_json((artifact.path / SCORES).read_bytes())
    chosen = sorted(read_predictions(artifact.path), key=lambda prediction: prediction.id)
    shown = (_sample(prediction) for prediction in chosen if _shown(prediction) is not None)
    return EvaluatedCell(artifact=artifact, scores=scores, samples=tuple(shown)[:samples])


def _shown(prediction: Prediction) -> str | None:
    return prediction.chosen if prediction.prediction is None else prediction.prediction


def _sample(prediction: Prediction) -> Sample:
    return Sample(
        id=prediction.id,
        prompt=prediction.prompt,
        references=prediction.references,
        prediction=_shown(prediction) or "",
    )
