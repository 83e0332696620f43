"""The record of the winner's evaluation, for the gate that may let it into production."""

from __future__ import annotations

from pathlib import Path

from tasks.data.settings import DataSettings
from tasks.data.values import DataReport
from tasks.evaluation.records import read_predictions
from tasks.evaluation.values import EvaluatedCell
from tasks.foundation.digests import library_versions
from tasks.foundation.values import Value
from tasks.merging.values import MergedCell
from tasks.metrics import all_metrics
from tasks.registry.record import MergeRecord, Record, Scored, ScoredChampion
from tasks.registry.settings import RegistrySettings
from tasks.training.values import Cell

_LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


class Judged(Value):
    """What a record is made from, beside the winner itself."""

    settings: RegistrySettings
    metric: str
    """The metric that named the winner, by its own name (`rouge`, not `rougeL`)."""
    data: DataSettings
    report: DataReport
    base_probe_loss: float | None
    """Of the untuned base of the same comparison."""
    champion: ScoredChampion | None
    champion_missing: str


class Winner(Value):
    """The cell that won, with what its steps left."""

    cell: Cell
    run_id: str
    merged: MergedCell
    evaluated: EvaluatedCell
    code_commit: str
    answer: str | None
    """To the package's input example."""


def record_of(winner: Winner, judged: Judged) -> Record:
    """Everything that the gate looks at."""
    merged, proof = winner.merged, winner.merged.proof
    merge = MergeRecord(
        outcome=merged.outcome,
        largest_difference=proof.largest_difference if proof else None,
        tolerance=proof.tolerance if proof else None,
    )
    scored = scored_by(winner.evaluated, merged.weights_digest)
    return Record(
        model_name=judged.settings.model or "",
        label=winner.cell.label,
        run_id=winner.run_id,
        fingerprint=winner.cell.fingerprint,
        base_digest=merged.candidate.base.digest,
        tokenizer_digest=merged.candidate.base.tokenizer_digest,
        data_digest=judged.report.digest,
        code_commit=winner.code_commit,
        metric=judged.metric,
        directions={name: all_metrics()[name].higher_is_better for name in scored.per_row},
        scored=scored,
        base_probe_loss=judged.base_probe_loss,
        champion=judged.champion,
        champion_missing=judged.champion_missing,
        merge=merge,
        eval_rows=winner.evaluated.scores.rows,
        leaked_rows=judged.report.leaked_rows,
        on_leak=judged.data.on_leak,
        answer=winner.answer,
        libraries=library_versions(*_LIBRARIES),
        gate=judged.settings.gate,
    )


def scored_by(evaluated: EvaluatedCell, weights_digest: str) -> Scored:
    """What one evaluation found, row by row."""
    scores = evaluated.scores
    return Scored(
        weights_digest=weights_digest,
        rows_digest=scores.rows_digest,
        metrics=scores.metrics,
        per_row=per_row(evaluated.artifact.path),
        probe_loss=scores.probe_loss,
    )


def per_row(folder: Path) -> dict[str, dict[str, float]]:
    """Metric -> id of the row (likelihood) or prompt (answers, choices) -> score."""
    found: dict[str, dict[str, float]] = {}
    for prediction in read_predictions(folder):
        units = [(prediction.id, prediction.scores), *((row.id, row.scores) for row in prediction.rows)]
        for unit, scores in units:
            for metric, score in scores.items():
                found.setdefault(metric, {})[unit] = score
    return found
