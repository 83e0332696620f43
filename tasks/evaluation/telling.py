"""What a candidate is beside its scores: its quality at every size that it can be served in, and what it says of
itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from tasks.evaluation.asking import Progress, ask, plan
from tasks.evaluation.examples import examples_for
from tasks.evaluation.likelihood import IGNORED
from tasks.evaluation.loaded import Loaded, padded
from tasks.evaluation.reading import Suite
from tasks.evaluation.suite import TokenRow
from tasks.evaluation.values import EvaluationJob, SizeScores
from tasks.foundation.errors import DivergenceError
from tasks.methods import Method, parse_method
from tasks.metrics import metrics_named


class Told(NamedTuple):
    """Empty where the method has one size and nothing to say."""

    sizes: tuple[SizeScores, ...] = ()
    explanation: Mapping[str, float] = {}


def tell(loaded: Loaded, job: EvaluationJob, suite: Suite, progress: Progress) -> Told:
    """Ask the candidate at each of its sizes, the largest first, and then, at that one again, let it explain itself.

    Args:
        loaded: the candidate as training left it, not merged: only then its method can give it another size.
        job: whose candidate that is.
        suite: what is asked.
        progress: told of every batch.

    Raises:
        DivergenceError: a loss or a number of the explanation is not finite.
    """
    method = parse_method(job.candidate.method)
    scores = []
    for size in method.sizes():
        method.set_size(loaded.model, size)
        scores.append(SizeScores(size=size, metrics=_measured(loaded, job, suite, progress)))
    set_largest(method, loaded)
    explanation = method.explain(loaded.model, _batches(loaded, suite.tokens, job.settings.batch_size))
    return Told(tuple(scores), _finite(explanation, job.candidate.label))


def set_largest(method: Method, loaded: Loaded) -> None:
    """Give a candidate that was not merged its first size, if it has several."""
    for size in method.sizes()[:1]:
        method.set_size(loaded.model, size)


def _measured(loaded: Loaded, job: EvaluationJob, suite: Suite, progress: Progress) -> dict[str, float]:
    metrics = metrics_named(job.settings.size_metrics)
    work = plan(loaded, job, suite, {metric.needs for metric in metrics})
    findings = ask(loaded, job, suite, work, progress)
    found = (metric.measure(examples_for(metric.needs, suite, findings)) for metric in metrics)
    return {name: value for measurement in found for name, value in measurement.values.items()}


def _batches(loaded: Loaded, rows: Sequence[TokenRow], size: int) -> Iterator[dict[str, Tensor]]:
    """The evaluation rows in their order, on the model's device, padded on the right; [rows, tokens] each."""
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        pad = loaded.tokenizer.pad_token_id
        ids, mask = padded([row.input_ids for row in part], fill=pad, left=False, device=loaded.device)
        labels, _ = padded([row.labels for row in part], fill=IGNORED, left=False, device=loaded.device)
        yield {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _finite(explanation: Mapping[str, float], label: str) -> dict[str, float]:
    numbers = {name: float(value) for name, value in explanation.items()}
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise DivergenceError(f"{name} is {value}", where=label, fix="Lower the method's learning_rate")
    return numbers
