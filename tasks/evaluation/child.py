"""The evaluation as a child process runs it: the parent names this function without importing torch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.evaluation.values import EvaluationCost, EvaluationJob, Scores

if TYPE_CHECKING:
    from tasks.evaluation.asking import Report


def evaluate_in_child(job: EvaluationJob, folder: Path, report: Report) -> Scores:
    """See `tasks.evaluation.evaluate.evaluate`; how long it took lies beside its files."""
    from tasks.evaluation.evaluate import evaluate
    from tasks.evaluation.records import write_cost

    started = time.monotonic()
    scores = evaluate(job, folder, report)
    write_cost(folder, EvaluationCost(seconds=time.monotonic() - started))
    return scores
