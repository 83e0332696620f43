"""Evaluate one candidate: ask it everything that the metrics need, measure, write the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tasks.evaluation.asking import Findings, Report, ask
from tasks.evaluation.examples import examples_for, predictions
from tasks.evaluation.key import evaluation_key
from tasks.evaluation.loaded import evaluating, load
from tasks.evaluation.reading import Suite, read_suite
from tasks.evaluation.records import read_evaluated, write_records
from tasks.evaluation.values import EvaluationJob, Scores
from tasks.foundation.digests import digest_value
from tasks.metrics import Measurement, metrics_named

__all__ = ["EvaluationJob", "evaluate", "evaluation_key", "read_evaluated"]


def evaluate(job: EvaluationJob, folder: Path, report: Report) -> Scores:
    """Fill an empty folder with scores.json and predictions.jsonl; the same job gives the same bytes.

    Args:
        job: the candidate, the data and the settings.
        folder: existing, empty.
        report: called with the finished units of work and all of them.

    Raises:
        ConfigError: an unknown metric.
        DataError: the rows cannot be measured so: too long for the context, no labels, an undefined value.
        DivergenceError: the model's loss is NaN or infinite.
        ResourceError: too little memory.
    """
    metrics = metrics_named(job.settings.metrics)
    needs = {metric.needs for metric in metrics}
    suite = read_suite(job, needs)
    loaded = load(job)
    with evaluating(loaded.device):
        findings = ask(loaded, job, suite, needs, report)
    measured = {metric.name: metric.measure(examples_for(metric.needs, suite, findings)) for metric in metrics}
    scores = _scores(suite, findings, measured)
    write_records(folder, scores, predictions(suite, findings, measured, metrics))
    return scores


def _scores(suite: Suite, findings: Findings, measured: Mapping[str, Measurement]) -> Scores:
    probe = findings.probe
    return Scores(
        metrics={name: value for measurement in measured.values() for name, value in measurement.values.items()},
        signatures={name: found.signature for name, found in measured.items() if found.signature},
        probe_loss=probe.loss_sum / probe.tokens if probe else None,
        rows=len(suite.rows),
        prompts=len(suite.questions),
        cut_prompts=findings.cut_prompts,
        rows_digest=digest_value(sorted(row.id for row in suite.rows)),
    )
