"""What each step writes into its MLflow run, so that runs of all methods have the same flat rows."""

from tasks.records.cells import record_merge, record_micro_batch, record_restarts, record_scores, record_training
from tasks.records.champion import ChampionCell, champion_rows
from tasks.records.lines import Series, metric_points
from tasks.records.opening import Context, context, describe_cell, describe_run
from tasks.records.outcomes import CellOutcome, base_probe_loss, comparison_rows, lead_back
from tasks.records.shared import record_comparison, record_data, record_tokens, record_vocabulary

__all__ = [
    "CellOutcome",
    "ChampionCell",
    "Context",
    "Series",
    "base_probe_loss",
    "champion_rows",
    "comparison_rows",
    "context",
    "describe_cell",
    "describe_run",
    "lead_back",
    "metric_points",
    "record_comparison",
    "record_data",
    "record_merge",
    "record_micro_batch",
    "record_restarts",
    "record_scores",
    "record_tokens",
    "record_training",
    "record_vocabulary",
]
