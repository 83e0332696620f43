"""The present champion among the cells: asked what they are asked, a row of their table, never the winner."""

from __future__ import annotations

from tasks.comparison.compare import CHAMPION_KIND
from tasks.comparison.values import ComparisonRow
from tasks.evaluation.values import EvaluatedCell
from tasks.foundation.errors import ErrorRecord
from tasks.foundation.values import Value
from tasks.merging.values import MergedCell
from tasks.records.evaluation import scored_by
from tasks.registry.record import ScoredChampion
from tasks.tracking import RunRef


class ChampionCell(Value):
    """The champion, and what became of asking it."""

    version: int = 0
    package_digest: str = ""
    merged: MergedCell | None = None
    """The candidate to ask; None where there is none."""
    run: RunRef | None = None
    run_id: str = ""
    evaluated: EvaluatedCell | None = None
    missing: str = ""
    """Why it was not asked, in words."""

    def answered(self, evaluated: EvaluatedCell | None, error: ErrorRecord | None, run_id: str) -> ChampionCell:
        """With what the evaluation left."""
        missing = f"asking champion version {self.version} failed: {error.error()}" if error else self.missing
        return self.model_copy(update={"evaluated": evaluated, "missing": missing, "run_id": run_id})

    @property
    def scored(self) -> ScoredChampion | None:
        """Its scores, for the record of the winner."""
        if self.merged is None or self.evaluated is None:
            return None
        scored = scored_by(self.evaluated, self.merged.weights_digest)
        return ScoredChampion(**scored.model_dump(), version=self.version, package_digest=self.package_digest)


def champion_rows(champion: ChampionCell | None, base_probe_loss: float | None) -> list[ComparisonRow]:
    """Its row of the comparison, where it was asked."""
    if champion is None or champion.merged is None or champion.evaluated is None:
        return []
    scores = champion.evaluated.scores
    known = scores.probe_loss is not None and base_probe_loss is not None
    return [
        ComparisonRow(
            label=champion.merged.candidate.label,
            kind=CHAMPION_KIND,
            seed=0,
            status="cached" if champion.evaluated.artifact.cached else "done",
            metrics=scores.metrics,
            rows_digest=scores.rows_digest,
            forgetting=(scores.probe_loss or 0.0) - (base_probe_loss or 0.0) if known else None,
            run_id=champion.run_id,
            note="what production serves now",
        )
    ]
