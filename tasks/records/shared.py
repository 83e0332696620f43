"""Records of the steps that all cells share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.comparison.values import Comparison
from tasks.data.values import PreparedData, TokenizedData
from tasks.foundation.values import Value
from tasks.records.origin import origin_tags
from tasks.tracking import Run, RunRef
from tasks.vocabulary import REPORT_FILE, TOKENS_FILE, ExtendedBase


def record_data(prepared: PreparedData, runs: Sequence[RunRef]) -> None:
    """Counts as `data/…`, the report as an artifact, and our full digest as the run's data set."""
    for ref in runs:
        run = Run(ref)
        run.log_metrics(_counts("data", prepared.report))
        run.log_artifact(prepared.artifact.path / "report.json", "data")
        source = ", ".join(prepared.report.rows_by_source) or "data"
        run.log_dataset("train", prepared.report.digest, source, "training")
        run.set_tags({"tuneline.data_digest": prepared.report.digest} | origin_tags(prepared.artifact, ref))


def record_tokens(tokens: TokenizedData, runs: Sequence[RunRef]) -> None:
    """Counts as `tokenize/…`, and the sample of rows with its mask made visible."""
    for ref in runs:
        run = Run(ref)
        run.log_metrics(_counts("tokenize", tokens.report))
        run.log_artifact(tokens.artifact.path / "report.json", "tokens")
        run.log_artifact(tokens.artifact.path / "sample.md", "tokens")
        run.set_tags(origin_tags(tokens.artifact, ref))


def record_vocabulary(extended: ExtendedBase, runs: Sequence[RunRef]) -> None:
    """Counts and losses as `vocabulary/…`, the report and the tokens as artifacts; nothing where nobody asked."""
    if extended.report is None or extended.artifact is None:
        return
    for ref in runs:
        run = Run(ref)
        run.log_metrics(_counts("vocabulary", extended.report))
        for name in (REPORT_FILE, TOKENS_FILE):
            run.log_artifact(extended.artifact.path / name, "vocabulary")
        run.set_tags({"tuneline.extended_from": extended.origin} | origin_tags(extended.artifact, ref))


def record_comparison(comparison: Comparison, report: Sequence[Path], ref: RunRef) -> None:
    """Table, picture and raw rows of the comparison, and the winner as tags.

    `report`: the files of its report.
    """
    run = Run(ref)
    for path in report:
        run.log_artifact(path, "comparison")
    run.log_table(
        [row.model_dump(mode="json", exclude={"metrics", "delta", "sizes"}) | row.metrics for row in comparison.rows],
        "comparison/table.json",
    )
    run.set_tags({"tuneline.winner": comparison.winner or "none", "tuneline.metric": comparison.metric})


def _counts(prefix: str, report: Value) -> dict[str, float]:
    values = report.model_dump()
    flat = {name: value for name, value in values.items() if isinstance(value, int | float)}
    return {f"{prefix}/{name}": float(value) for name, value in flat.items()}
