"""The data report: what was read, what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median

from tasks.data.readers import BadRow
from tasks.data.reading import SourceRows
from tasks.data.values import DataReport, EvalRow, Row
from tasks.foundation.digests import canonical_json, digest_value
from tasks.foundation.errors import DataError
from tasks.foundation.values import Value

_FIRST_BAD = 5


class Selected(Value):
    """The rows that are used, and how many were not."""

    train: tuple[Row, ...]
    eval: tuple[EvalRow, ...]
    duplicates: int
    leaked: int
    unused: int


def bad_rows(read: Iterable[SourceRows]) -> list[BadRow]:
    """Every bad row, in the order of sources, files and lines."""
    return [bad for part in read for bad in part.bad]


def check_bad_rows(bad: Sequence[BadRow], read_rows: int, limit: float, quarantine: Path | None) -> None:
    """Fail when more rows are bad than the settings allow; `quarantine` then gets all of them.

    Raises:
        DataError: with the count, the share, the reasons and the first places.
    """
    if not bad or len(bad) / read_rows <= limit:
        return
    if quarantine:
        write_quarantine(quarantine, bad)
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(_by_reason(bad).items()))
    first = "; ".join(str(row) for row in bad[:_FIRST_BAD])
    raise DataError(
        f"{len(bad)} of {read_rows} rows are bad ({len(bad) / read_rows:.2%}: {reasons}). First: {first}",
        where=f"{bad[0].file}:{bad[0].line}",
        allowed=f"a share of {limit:g} (data.max_bad_fraction)",
        fix=f"Repair them{f' (all are in {quarantine})' if quarantine else ''}, "
        "or raise data.max_bad_fraction to go on without them",
    )


def make_report(read: Sequence[SourceRows], selected: Selected) -> DataReport:
    """Counts over everything that was read."""
    bad = bad_rows(read)
    rows = (*selected.train, *selected.eval)
    return DataReport(
        read_rows=sum(part.read for part in read),
        train_rows=len(selected.train),
        eval_rows=len(selected.eval),
        bad_rows=len(bad),
        bad_by_reason=_by_reason(bad),
        first_bad=tuple(str(row) for row in bad[:_FIRST_BAD]),
        duplicate_rows=selected.duplicates,
        leaked_rows=selected.leaked,
        unused_rows=selected.unused,
        rows_by_source=_by_source(read, rows),
        formats={name: found for part in read for name, found in part.formats.items()},
        prompt_characters_median=float(median(sum(len(turn.content) for turn in row.prompt) for row in rows)),
        answer_characters_median=float(median(len(row.answer) for row in rows)),
        digest=digest_value({"train": [row.id for row in selected.train], "eval": [row.id for row in selected.eval]}),
    )


def _by_reason(bad: Iterable[BadRow]) -> dict[str, int]:
    return dict(sorted(Counter(row.reason for row in bad).items()))


def _by_source(read: Sequence[SourceRows], rows: Iterable[Row]) -> dict[str, int]:
    """Used rows of each source."""
    used = Counter(row.source.rpartition(":")[0] for row in rows)
    return {part.source.label: sum(used[name] for name in part.formats) for part in read}


def write_report(folder: Path, report: DataReport, bad: Iterable[BadRow]) -> None:
    """report.json and quarantine.jsonl."""
    (folder / "report.json").write_text(canonical_json(report) + "\n", encoding="utf-8")
    write_quarantine(folder / "quarantine.jsonl", bad)


def write_quarantine(path: Path, bad: Iterable[BadRow]) -> None:
    """One line per bad row: file, line, reason, excerpt."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(canonical_json(row) + "\n" for row in bad)
