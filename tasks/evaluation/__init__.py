"""Evaluation of a candidate on the held-out rows. The public face of the package (`evaluate` needs torch)."""

from tasks.evaluation.key import evaluation_key
from tasks.evaluation.records import read_evaluated, read_predictions
from tasks.evaluation.settings import EvaluationSettings
from tasks.evaluation.values import EvaluatedCell, EvaluationJob, Prediction, RowScore, Sample, Scores

__all__ = [
    "EvaluatedCell",
    "EvaluationJob",
    "EvaluationSettings",
    "Prediction",
    "RowScore",
    "Sample",
    "Scores",
    "evaluation_key",
    "read_evaluated",
    "read_predictions",
]
