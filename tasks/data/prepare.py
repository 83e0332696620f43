"""The data step: sources in, canonical rows and a report out."""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.artifacts import Artifact
from tasks.data.reading import SourceRows, read_source
from tasks.data.report import Selected, bad_rows, check_bad_rows, make_report, write_report
from tasks.data.rows import write_rows
from tasks.data.selection import choose, distinct, is_held_out, leaked_ids, with_references
from tasks.data.settings import DataSettings
from tasks.data.sources import Source, resolve_sources
from tasks.data.values import DataReport, EvalRow, PreparedData, Row
from tasks.embedded import embedded_key
from tasks.foundation.digests import code_digest, digest_file, digest_value, library_versions
from tasks.foundation.errors import DataError
from tasks.foundation.faults import reach

log = logging.getLogger(__name__)

_SETTINGS = {"max_train_rows", "max_eval_rows", "max_bad_fraction", "max_row_characters", "on_leak", "seed"}
"""Fields that decide the rows, beside the sources themselves."""
_CODE = (
    "tasks.data.formats",
    "tasks.data.hub",
    "tasks.data.prepare",
    "tasks.data.readers",
    "tasks.data.reading",
    "tasks.data.report",
    "tasks.data.rows",
    "tasks.data.selection",
    "tasks.data.sources",
    "tasks.data.values",
)
_SHOWN_LEAKS = 3


def prepare_key(settings: DataSettings) -> str:
    """sha256 of everything that decides the rows: settings, the bytes of every input, code, libraries.

    Raises:
        DataError: a source is not there.
    """
    train, evaluation = resolve_sources(settings, "train"), resolve_sources(settings, "eval")
    return digest_value(
        {
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
            "eval_fraction": None if evaluation else settings.eval_fraction,
            "train": [_identity(source) for source in train],
            "eval": [_identity(source) for source in evaluation],
            "code": code_digest(*_CODE),
            "libraries": library_versions("datasets", "pyarrow"),
        }
    )


def _identity(source: Source) -> dict[str, object]:
    identity = source.model_dump(mode="json", exclude={"files"})
    identity["files"] = [(path.as_posix(), digest_file(path)) for path in source.files]
    if source.kind == "embedded":
        identity["embedded"] = embedded_key()
    return identity


def prepare(settings: DataSettings, folder: Path, quarantine: Path | None = None) -> DataReport:
    """Read, check, deduplicate, split and choose; fill an empty folder with rows, quarantine and report.

    Args:
        quarantine: file for the bad rows when there are too many and the folder comes to nothing.

    Raises:
        DataError: unreadable or too many bad rows, a leak, or nothing left to train or to evaluate on.
    """
    train = [_read(source, settings) for source in resolve_sources(settings, "train")]
    evaluation = [_read(source, settings) for source in resolve_sources(settings, "eval")]
    read = [*train, *evaluation]
    bad = bad_rows(read)
    check_bad_rows(bad, sum(part.read for part in read), settings.max_bad_fraction, quarantine)
    selected = _select(train, evaluation, settings)
    report = make_report(read, selected)
    reach("prepare.write")
    write_rows(folder / "train.jsonl", selected.train)
    reach("prepare.write")
    write_rows(folder / "eval.jsonl", selected.eval)
    reach("prepare.write")
    write_report(folder, report, bad)
    log.info("%d training rows, %d evaluation rows, %d bad", report.train_rows, report.eval_rows, report.bad_rows)
    return report


def _read(source: Source, settings: DataSettings) -> SourceRows:
    log.info("reading %s", source.name)
    return read_source(source, settings.max_row_characters)


def _select(train: list[SourceRows], evaluation: list[SourceRows], settings: DataSettings) -> Selected:
    groups, eval_groups = _distinct(train), _distinct(evaluation)
    good = sum(len(part.rows) for part in (*train, *evaluation))
    duplicates = good - sum(map(len, (*groups, *eval_groups)))
    if not evaluation:
        groups, eval_groups = _split(groups, settings.eval_fraction)
    groups, leaked = _without_leaks(groups, eval_groups, settings.on_leak)
    chosen = _chosen(groups, train, settings.max_train_rows, settings.seed)
    judged = _chosen(eval_groups, evaluation or train, settings.max_eval_rows, settings.seed)
    _check_not_empty(chosen, judged, settings)
    dropped = leaked if settings.on_leak == "drop" else 0
    return Selected(
        train=tuple(chosen),
        eval=_references(judged, eval_groups),
        duplicates=duplicates,
        leaked=leaked,
        unused=good - duplicates - dropped - len(chosen) - len(judged),
    )


def _distinct(parts: list[SourceRows]) -> list[list[Row]]:
    """The rows of each source without exact duplicates, which belong to the first source that holds them."""
    seen: set[str] = set()
    return [distinct(part.rows, seen) for part in parts]


def _split(groups: list[list[Row]], fraction: float) -> tuple[list[list[Row]], list[list[Row]]]:
    sides: tuple[list[list[Row]], list[list[Row]]] = ([], [])
    for group in groups:
        held_out = [is_held_out(row, fraction) for row in group]
        for side, rows in enumerate(sides):
            rows.append([row for row, out in zip(group, held_out, strict=True) if out == bool(side)])
    return sides


def _without_leaks(groups: list[list[Row]], eval_groups: list[list[Row]], policy: str) -> tuple[list[list[Row]], int]:
    """Training rows after the leak policy, and the number of leaked ones."""
    train = [row for group in groups for row in group]
    leaked = leaked_ids(train, [row for group in eval_groups for row in group])
    if leaked and policy == "error":
        places = [row.source for row in train if row.id in leaked][:_SHOWN_LEAKS]
        raise DataError(
            f"{len(leaked)} training rows are evaluation rows too. First: {'; '.join(places)}",
            where=places[0],
            allowed="data.on_leak: error, drop (from training), report",
            fix="Remove them, or set data.on_leak: drop",
        )
    if leaked:
        log.warning("%d training rows are evaluation rows too (on_leak: %s)", len(leaked), policy)
    if policy == "drop":
        groups = [[row for row in group if row.id not in leaked] for group in groups]
    return groups, len(leaked)


def _chosen(groups: list[list[Row]], parts: list[SourceRows], limit: int | None, seed: int) -> list[Row]:
    rows = choose(groups, [part.source.weight for part in parts], limit, seed)
    available = sum(map(len, groups))
    if limit is None and len(rows) < available:
        log.warning("%d of %d rows are unused, so that the mixing weights hold", available - len(rows), available)
    return rows


def _references(judged: list[Row], eval_groups: list[list[Row]]) -> tuple[EvalRow, ...]:
    return tuple(with_references(judged, [row for group in eval_groups for row in group]))


def _check_not_empty(train: list[Row], evaluation: list[Row], settings: DataSettings) -> None:
    if not train:
        raise DataError(
            "no training row is left",
            where="data.train",
            fix="Check the file, and that every weighted source has rows; the report counts what was left out",
        )
    if not evaluation:
        fix = "Check the file" if settings.eval else "Raise data.eval_fraction, or name a file under data.eval"
        raise DataError("no evaluation row is left", where="data.eval", fix=fix)


def read_prepared(artifact: Artifact) -> PreparedData:
    """What an artifact of this step holds."""
    report = DataReport.model_validate_json((artifact.path / "report.json").read_bytes())
    return PreparedData(artifact=artifact, report=report)
