"""The evaluation as a child process runs it: the parent names this function without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluation.values import EvaluationJob, Scores

if TYPE_CHECKING:
    from tasks.evaluation.asking import Report


def evaluate_in_child(job: EvaluationJob, folder: Path, report: Report) -> Scores:
    """See `tasks.evaluation.evaluate.evaluate`."""
    from tasks.evaluation.evaluate import evaluate

    return evaluate(job, folder, report)
