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
from tasks.evaluation.shots import Wording, word
from tasks.evaluation.suite import TokenRow
from tasks.evaluation.values import EvaluationJob, ShotCount
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
    shots: ShotCount | None


class Work(NamedTuple):
    """Everything that will be asked, as tokens."""

    wording: Wording
    rows: Sequence[TokenRow]
    prompts: Sequence[list[int]]
    cut_prompts: int
    label_rows: Sequence[TokenRow]
    probe: Sequence[TokenRow]

    @property
    def units(self) -> int:
        return len(self.rows) + len(self.prompts) + len(self.label_rows) + len(self.probe)


class Progress:
    """Counts the finished units of work."""

    def __init__(self, total: int, report: Report) -> None:
        self._done, self._total, self._report = 0, total, report
        report(0, total)

    def advance(self, units: int) -> None:
        """So many more are done."""
        reach("evaluate.batch")
        self._done += units
        self._report(self._done, self._total)


def units_of(suite: Suite, needs: AbstractSet[Needs]) -> int:
    """Units of work in asking all of this once."""
    asked = {"likelihood": len(suite.tokens), "generation": len(suite.asked)}
    asked["choice"] = len(suite.asked) * len(suite.labels)
    return sum(asked[need] for need in needs)


def plan(loaded: Loaded, job: EvaluationJob, suite: Suite, needs: AbstractSet[Needs]) -> Work:
    """What will be asked, without the probe.

    Raises:
        DataError: the hard prompt has too few examples, or none fits.
    """
    wording = word(loaded, job, suite, needs)
    asked = suite.asked if "generation" in needs else ()
    prompts, cut = prompts_of(loaded, asked, job.settings.max_new_tokens, job.data, wording.examples)
    labelled = label_rows(loaded, suite.asked, suite.labels, wording.examples) if "choice" in needs else ()
    return Work(
        wording=wording,
        rows=wording.rows if "likelihood" in needs else (),
        prompts=prompts,
        cut_prompts=cut,
        label_rows=labelled,
        probe=(),
    )


def with_probe(work: Work, loaded: Loaded, job: EvaluationJob) -> Work:
    """The probe text too, where one is set; never behind examples.

    Raises:
        DataError: it cannot be read.
    """
    if job.settings.probe is None:
        return work
    window = min(job.data.max_seq_length, loaded.context)
    windows = probe_windows(read_probe(job.settings.probe), loaded.tokenizer, window, job.settings.probe_tokens)
    return work._replace(probe=windows)


def ask(loaded: Loaded, job: EvaluationJob, suite: Suite, work: Work, progress: Progress) -> Findings:
    """Likelihoods, answers, choices and the probe, each only where it is needed.

    Raises:
        DataError: something does not fit into the model's context.
        DivergenceError: the model's loss is NaN or infinite.
    """
    size = job.settings.batch_size
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
        shots=work.wording.counted,
    )


def _total(losses: Sequence[RowLoss]) -> RowLoss:
    return RowLoss(sum(loss.loss_sum for loss in losses), sum(loss.tokens for loss in losses))
