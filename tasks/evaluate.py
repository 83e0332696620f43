"""Step 5: every candidate answers the same held-out rows."""

from __future__ import annotations

from prefect import task
from prefect.client.schemas import State

from tasks.evaluation import evaluation_key, read_evaluated
from tasks.evaluation.child import evaluate_in_child
from tasks.evaluation.exam import Exam
from tasks.evaluation.values import EvaluatedCell
from tasks.launch.children import run_in_child_reporting
from tasks.merging.values import MergedCell
from tasks.records import record_scores
from tasks.states import finished
from tasks.workspace import Place, close_done, working


@task(name="evaluate", task_run_name="evaluate {place.label}", persist_result=False)
def evaluate(merged: MergedCell, exam: Exam, place: Place) -> EvaluatedCell | State[EvaluatedCell]:
    """Likelihood, greedy answers and choices on the same rows; or adopt the scores of the same weights."""
    with working(place, "evaluate") as reporter:
        job = exam.job(merged.candidate, merged.adapter, merged.adapter_digest)
        artifact = place.workspace.store.make(
            "evaluate",
            evaluation_key(job, merged.weights_digest),
            lambda folder: run_in_child_reporting(evaluate_in_child, reporter.progress, job, folder),
            made_by=place.run.key,
        )
        evaluated = read_evaluated(artifact, job.settings.samples)
        record_scores(evaluated, place.run)
        close_done(place, cached=artifact.cached)
        return finished(evaluated, cached=artifact.cached)
