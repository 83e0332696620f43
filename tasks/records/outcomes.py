"""From what became of each cell to the rows of the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.comparison.values import ComparisonRow
from tasks.evaluation.values import EvaluatedCell
from tasks.foundation.errors import ErrorRecord
from tasks.foundation.values import Value
from tasks.merging.values import MergedCell
from tasks.methods import parse_method
from tasks.records.origin import maker_of
from tasks.tracking import Run, RunRef
from tasks.training.retry import micro_batch_text
from tasks.training.values import Cell, TrainedCell


class CellOutcome(Value):
    """A cell with everything that its steps left; what a failed step and those after it would have left is None."""

    cell: Cell
    run: RunRef
    run_id: str = ""
    """MLflow's id of the run, once it is known there."""
    trained: TrainedCell | None = None
    merged: MergedCell | None = None
    evaluated: EvaluatedCell | None = None
    error: ErrorRecord | None = None

    @property
    def cached(self) -> bool:
        """True when no step of the cell had to run."""
        artifacts = [self.trained and self.trained.artifact, self.merged and self.merged.artifact]
        artifacts.append(self.evaluated.artifact if self.evaluated else None)
        made = [artifact for artifact in artifacts if artifact]
        return bool(made) and all(artifact.cached for artifact in made)


def lead_back(outcomes: Sequence[CellOutcome]) -> None:
    """Tag the runs of cached cells with the MLflow run that made them; called when all earlier runs have been sent."""
    for outcome in outcomes:
        if outcome.cached and outcome.evaluated and (maker := maker_of(outcome.evaluated.artifact, outcome.run)):
            Run(outcome.run).set_tags({"tuneline.cached_from": maker})


def comparison_rows(outcomes: Sequence[CellOutcome]) -> list[ComparisonRow]:
    """One row per cell; forgetting is measured against the untuned base of the same comparison."""
    base = base_probe_loss(outcomes)
    return [_row(outcome, base) for outcome in outcomes]


def base_probe_loss(outcomes: Sequence[CellOutcome]) -> float | None:
    """Loss of the untuned base on the probe, in nats per token, where there is a probe."""
    return next((o.evaluated.scores.probe_loss for o in outcomes if o.evaluated and not o.cell.trains), None)


def _row(outcome: CellOutcome, base_probe_loss: float | None) -> ComparisonRow:
    cell = outcome.cell
    identity = {"label": cell.label, "kind": str(cell.method["kind"]), "seed": cell.seed, "run_id": outcome.run_id}
    if outcome.error or not outcome.evaluated:
        reason = str(outcome.error.error()) if outcome.error else "it did not run"
        return ComparisonRow(status="failed", reason=reason, **identity)
    scores = outcome.evaluated.scores
    forgetting = None
    if base_probe_loss is not None and scores.probe_loss is not None and cell.trains:
        forgetting = scores.probe_loss - base_probe_loss
    return ComparisonRow(
        status="cached" if outcome.cached else "done",
        metrics=scores.metrics,
        rows_digest=scores.rows_digest,
        forgetting=forgetting,
        sizes={size.size: size.metrics for size in outcome.evaluated.sizes},
        hard_prompt=parse_method(cell.method).prompting() is not None,
        merge=outcome.merged.outcome if outcome.merged and cell.trains else "-",
        note=_note(outcome),
        **_costs(outcome.trained),
        **identity,
    )


def _note(outcome: CellOutcome) -> str:
    """What the cell goes on from, and what ran instead of what was asked for."""
    asked, ran = outcome.cell, outcome.trained.cell if outcome.trained else outcome.cell
    said = [f"{name} {source.title} ({source.digest[:12]})" for name, source in asked.sources.items()]
    scores = outcome.evaluated.scores if outcome.evaluated else None
    if scores and scores.shots and scores.shots.short_prompts:
        said.append(
            f"{scores.shots.short_prompts} of {scores.prompts} prompts stand behind fewer than {scores.shots.asked} "
            "examples, since no more fit into the model's context"
        )
    if asked.training != ran.training:
        micro, wanted = micro_batch_text(ran.training), micro_batch_text(asked.training)
        said.append(f"trained with micro-batches of {micro}, since {wanted} ran out of memory")
    return "; ".join(said)


def _costs(trained: TrainedCell | None) -> dict[str, float | int | None]:
    if trained is None or trained.result is None or trained.cost is None:
        return {"trainable_parameters": 0}
    return {
        "trainable_parameters": trained.result.trainable_parameters,
        "weights_bytes": trained.result.weights_bytes,
        "peak_memory_bytes": trained.cost.peak_memory_bytes,
        "train_seconds": trained.cost.train_seconds,
        "tokens_per_second": trained.cost.tokens_per_second,
    }
