"""The files of an evaluation: scores.json, predictions.jsonl, sizes.json, explain.json, cost.json."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.artifacts import Artifact
from tasks.evaluation.values import EvaluatedCell, EvaluationCost, Prediction, Sample, Scores, SizeScores
from tasks.foundation.digests import canonical_json
from tasks.foundation.faults import reach

SCORES = "scores.json"
PREDICTIONS = "predictions.jsonl"
COST = "cost.json"
SIZES = "sizes.json"
EXPLANATION = "explain.json"


def write_records(folder: Path, scores: Scores, predictions: Iterable[Prediction]) -> None:
    """Fill the folder; equal values give equal bytes."""
    reach("evaluate.write")
    (folder / SCORES).write_text(canonical_json(scores) + "\n", encoding="utf-8", newline="\n")
    reach("evaluate.write")
    with (folder / PREDICTIONS).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(canonical_json(prediction) + "\n" for prediction in predictions)


def write_told(folder: Path, sizes: Sequence[SizeScores], explanation: Mapping[str, float]) -> None:
    """Quality per size and the method's own numbers, each only where there is any."""
    kept = {SIZES: [size.model_dump() for size in sizes], EXPLANATION: dict(explanation)}
    for name, value in kept.items():
        if value:
            reach("evaluate.write")
            (folder / name).write_text(canonical_json(value) + "\n", encoding="utf-8", newline="\n")


def write_cost(folder: Path, cost: EvaluationCost) -> None:
    """Put the cost beside the scores, which must not depend on it."""
    (folder / COST).write_text(cost.model_dump_json() + "\n", encoding="utf-8")


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
    cost = artifact.path / COST
    return EvaluatedCell(
        artifact=artifact,
        scores=scores,
        cost=EvaluationCost.model_validate_json(cost.read_bytes()) if cost.exists() else None,
        samples=tuple(shown)[:samples],
        sizes=tuple(map(SizeScores.model_validate, _read(artifact.path / SIZES, []))),
        explanation=_read(artifact.path / EXPLANATION, {}),
    )


def _read(path: Path, absent: Any) -> Any:
    return json.loads(path.read_bytes()) if path.exists() else absent


def _shown(prediction: Prediction) -> str | None:
    return prediction.chosen if prediction.prediction is None else prediction.prediction


def _sample(prediction: Prediction) -> Sample:
    return Sample(
        id=prediction.id,
        prompt=prediction.prompt,
        references=prediction.references,
        prediction=_shown(prediction) or "",
    )
