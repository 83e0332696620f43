"""Ask the loaded candidate everything that the metrics need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from tasks.evaluation.choices import label_rows, most_likely_labels
from tasks.evaluation.generation import greedy_answers, prompts_of
from tasks.evaluation.likelihood import RowLoss, row_losses
from tasks.evaluation.loaded import Loaded
from tasks.evaluation.probe import probe_windows, read_probe
from tasks.evaluation.reading import Suite
from tasks.evaluation.suite import TokenRow
from tasks.evaluation.values import EvaluationJob
from tasks.foundation.faults import reach
from tasks.metrics import Needs

Report = Callable[[int, int], None]
"""Called with the finished units of work (sequences or prompts) and all of them."""


class Findings(NamedTuple):
    """What the candidate did; empty where no metric needs it."""

    losses: Mapping[str, RowLoss]
    """Row id -> cross-entropy."""
    answers: Mapping[str, str]
    """Question id -> greedy answer."""
    choices: Mapping[str, str]
    """Question id -> most likely label."""
    probe: RowLoss | None
    cut_prompts: int


class _Work(NamedTuple):
    """Everything that will be asked, as tokens."""

    rows: Sequence[TokenRow]
    prompts: Sequence[list[int]]
    cut_prompts: int
    label_rows: Sequence[TokenRow]
    probe: Sequence[TokenRow]

    @property
    def units(self) -> int:
        return len(self.rows) + len(self.prompts) + len(self.label_rows) + len(self.probe)


class _Progress:
    def __init__(self, total: int, report: Report) -> None:
        self._done, self._total, self._report = 0, total, report
        report(0, total)

    def advance(self, units: int) -> None:
        reach("evaluate.batch")
        self._done += units
        self._report(self._done, self._total)


def ask(loaded: Loaded, job: EvaluationJob, suite: Suite, needs: AbstractSet[Needs], report: Report) -> Findings:
    """Likelihoods, answers, choices and the probe, each only where it is needed.

    Raises:
        DataError: something does not fit into the model's context, or the probe cannot be read.
        DivergenceError: the model's loss is NaN or infinite.
    """
    work, size = _plan(loaded, job, suite, needs), job.settings.batch_size
    progress = _Progress(work.units, report)
    losses = row_losses(loaded, work.rows, size, progress.advance)
    answers = greedy_answers(loaded, work.prompts, job.settings, progress.advance)
    label_losses = row_losses(loaded, work.label_rows, size, progress.advance)
    chosen = most_likely_labels(label_losses, suite.labels)
    probe = row_losses(loaded, work.probe, size, progress.advance)
    asked = [question.id for question in suite.asked]
    return Findings(
        losses={row.id: loss for row, loss in zip(work.rows, losses, strict=True)},
        answers=dict(zip(asked, answers, strict=True)) if work.prompts else {},
        choices=dict(zip(asked, chosen, strict=True)) if work.label_rows else {},
        probe=_total(probe) if probe else None,
        cut_prompts=work.cut_prompts,
    )


def _plan(loaded: Loaded, job: EvaluationJob, suite: Suite, needs: AbstractSet[Needs]) -> _Work:
    asked = suite.asked if "generation" in needs else ()
    prompts, cut = prompts_of(loaded, asked, job.settings.max_new_tokens, job.data)
    return _Work(
        rows=suite.tokens if "likelihood" in needs else (),
        prompts=prompts,
        cut_prompts=cut,
        label_rows=label_rows(loaded, suite.asked, suite.labels) if "choice" in needs else (),
        probe=_probe_rows(loaded, job),
    )


def _probe_rows(loaded: Loaded, job: EvaluationJob) -> Sequence[TokenRow]:
    if job.settings.probe is None:
        return ()
    window = min(job.data.max_seq_length, loaded.context)
    return probe_windows(read_probe(job.settings.probe), loaded.tokenizer, window, job.settings.probe_tokens)


def _total(losses: Sequence[RowLoss]) -> RowLoss:
    return RowLoss(sum(loss.loss_sum for loss in losses), sum(loss.tokens for loss in losses))
