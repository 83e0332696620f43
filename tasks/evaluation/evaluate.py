"""Evaluate one candidate: ask it everything that the metrics need, measure, write the files."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from tasks.evaluation.asking import Findings, Progress, Report, ask, plan, units_of, with_probe
from tasks.evaluation.examples import examples_for, predictions
from tasks.evaluation.key import evaluation_key
from tasks.evaluation.loaded import evaluating, load
from tasks.evaluation.reading import Suite, read_suite
from tasks.evaluation.records import read_evaluated, write_records, write_told
from tasks.evaluation.telling import Told, set_largest, tell
from tasks.evaluation.values import EvaluationJob, Scores
from tasks.foundation.digests import digest_value
from tasks.methods import parse_method
from tasks.metrics import Measurement, Needs, metrics_named

__all__ = ["EvaluationJob", "evaluate", "evaluation_key", "read_evaluated"]


class _Needs(NamedTuple):
    """What the metrics want asked, of the candidate and of each of its sizes."""

    whole: AbstractSet[Needs]
    size: AbstractSet[Needs]
    sizes: int


def evaluate(job: EvaluationJob, folder: Path, report: Report) -> Scores:
    """Fill an empty folder with scores.json, predictions.jsonl and what the method has to tell; the same job gives the
    same bytes.

    Args:
        job: the candidate, the data and the settings.
        folder: existing, empty.
        report: called with the finished units of work and all of them.

    Raises:
        ConfigError: an unknown metric, or a hard prompt that the tokenizer has no place for.
        DataError: the rows cannot be measured so: too long for the context, no labels, an undefined value.
        DivergenceError: the model's loss is NaN or infinite.
        ResourceError: too little memory.
    """
    metrics = metrics_named(job.settings.metrics)
    needs = _needs(job)
    suite = read_suite(job, needs.whole | needs.size)
    findings, told = _examined(job, suite, needs, report)
    measured = {metric.name: metric.measure(examples_for(metric.needs, suite, findings)) for metric in metrics}
    scores = _scores(suite, findings, measured)
    write_records(folder, scores, predictions(suite, findings, measured, metrics))
    write_told(folder, told.sizes, told.explanation)
    return scores


def _needs(job: EvaluationJob) -> _Needs:
    sizes = parse_method(job.candidate.method).sizes()
    of_a_size = metrics_named(job.settings.size_metrics) if sizes else ()
    whole = {metric.needs for metric in metrics_named(job.settings.metrics)}
    return _Needs(whole, {metric.needs for metric in of_a_size}, len(sizes))


def _examined(job: EvaluationJob, suite: Suite, needs: _Needs, report: Report) -> tuple[Findings, Told]:
    """One model in memory at a time: a merged candidate makes room for what it was before."""
    method, loaded = parse_method(job.candidate.method), load(job)
    with evaluating(loaded.device):
        if job.adapter is None:
            set_largest(method, loaded)
        work = with_probe(plan(loaded, job, suite, needs.whole), loaded, job)
        progress = Progress(work.units + needs.sizes * units_of(suite, needs.size), report)
        findings = ask(loaded, job, suite, work, progress)
    if not method.tells:
        return findings, Told()
    if job.adapter is not None:
        del loaded
        loaded = load(job.model_copy(update={"candidate": job.adapter}))
    with evaluating(loaded.device):
        return findings, tell(loaded, job, suite, progress)


def _scores(suite: Suite, findings: Findings, measured: Mapping[str, Measurement]) -> Scores:
    probe = findings.probe
    return Scores(
        metrics={name: value for measurement in measured.values() for name, value in measurement.values.items()},
        signatures={name: found.signature for name, found in measured.items() if found.signature},
        probe_loss=probe.loss_sum / probe.tokens if probe else None,
        rows=len(suite.rows),
        prompts=len(suite.questions),
        cut_prompts=findings.cut_prompts,
        shots=findings.shots,
        rows_digest=digest_value(sorted(row.id for row in suite.rows)),
    )
