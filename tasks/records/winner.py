"""From the winner of a comparison to what registration asks for."""

from __future__ import annotations

from pathlib import Path

from tasks.data.settings import DataSettings
from tasks.data.values import PreparedData
from tasks.foundation.errors import DependencyError
from tasks.foundation.values import Value
from tasks.records.champion import ChampionCell
from tasks.records.evaluation import Judged, Winner, record_of
from tasks.records.opening import Context
from tasks.records.outcomes import CellOutcome
from tasks.registry.example import find_example
from tasks.registry.settings import RegistrySettings
from tasks.registry.values import RegisterRequest
from tasks.tracking.settings import TrackingSettings


class Registration(Value):
    """The winner and everything that leads back from it."""

    name: str
    """The experiment's name."""
    settings: RegistrySettings
    tracking: TrackingSettings
    winner: CellOutcome
    prepared: PreparedData
    data: DataSettings
    max_new_tokens: int
    context: Context
    metric: str
    """The metric that named the winner, by its own name (`rouge`, not `rougeL`)."""
    base_probe_loss: float | None = None
    """Of the untuned base of the same comparison."""
    champion: ChampionCell = ChampionCell()
    """What production serves now, asked the same."""


def register_request(registration: Registration, report: Path) -> RegisterRequest:
    """The request for the registry.

    Raises:
        DependencyError: MLflow does not know the winner's run yet, since the server was not reachable.
    """
    winner, settings = registration.winner, registration.settings
    trained, merged, evaluated = winner.trained, winner.merged, winner.evaluated
    if trained is None or merged is None or evaluated is None or settings.model is None:
        raise ValueError("only a cell whose every step succeeded can be registered")
    if not winner.run_id:
        raise DependencyError(
            "the tracking server could not be reached, so the winner has no run there yet",
            where="tracking.uri",
            fix="Nothing is lost: run the same command again when the server is back; nothing is trained twice",
        )
    example = find_example(registration.prepared, evaluated)
    return RegisterRequest(
        model_name=settings.model,
        alias=settings.alias,
        candidate=merged.candidate,
        label=winner.cell.label,
        run_id=winner.run_id,
        comparison=report / "comparison.md",
        metrics=evaluated.scores.metrics,
        rows_digest=evaluated.scores.rows_digest,
        data_digest=registration.prepared.report.digest,
        fingerprint=trained.cell.fingerprint,
        sources=trained.cell.sources,
        code_commit=registration.context.code.label,
        prefect_url=registration.context.flow_run_url,
        data=registration.data,
        max_new_tokens=registration.max_new_tokens,
        example=example,
        record=record_of(
            Winner(
                cell=trained.cell,
                run_id=winner.run_id,
                merged=merged,
                evaluated=evaluated,
                code_commit=registration.context.code.label,
                answer=example.answer if example else None,
            ),
            Judged(
                settings=settings,
                metric=registration.metric,
                data=registration.data,
                report=registration.prepared.report,
                base_probe_loss=registration.base_probe_loss,
                champion=registration.champion.scored,
                champion_missing=registration.champion.missing,
            ),
        ),
    )
