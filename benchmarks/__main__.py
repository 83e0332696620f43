"""`python -m benchmarks [NAME] [--repeats 3] [--quick]`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.base import Benchmark, Conditions, SkippedError, all_benchmarks
from benchmarks.findings import counted, findings_table
from benchmarks.records import RESULTS, Record, keep, machine_here, new_record
from benchmarks.table import notes_of, table_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="A benchmark, or `all`; without it they are listed.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each side.")] = 3,
    quick: Annotated[bool, typer.Option(help="Small sizes: to see that it works, not to measure.")] = False,
    seed: Annotated[int, typer.Option(help="Of what is chosen at random.")] = 0,
    keep_in: Annotated[
        Path | None, typer.Option(help="Folder for what it makes: cut off, it goes on there (`methods` only).")
    ] = None,
) -> None:
    """Measure tuneline against what users would run instead."""
    console = Console()
    known = all_benchmarks()
    if not name:
        show_names(console, known)
        return
    if name not in (*known, "all"):
        console.print(f"There is no benchmark {name!r}. Known: {', '.join(known)}, all.")
        raise typer.Exit(2)
    kinds = list(known.values()) if name == "all" else [known[name]]
    if keep_in and not all(kind.goes_on for kind in kinds):
        console.print(f"{name} measures times: nothing of an earlier start may be adopted. Leave --keep-in out.")
        raise typer.Exit(2)
    kept = [run(kind(), (repeats, quick, seed), console, keep_in) for kind in kinds]
    raise typer.Exit(0 if all(kept) else 1)


def show_names(console: Console, known: dict[str, type[Benchmark]]) -> None:
    for name, kind in known.items():
        console.print(f"{name:14} {kind.covers:4} {kind.question}", highlight=False)


def run(benchmark: Benchmark, asked: tuple[int, bool, int], console: Console, keep_in: Path | None = None) -> bool:
    """Measure, show, keep; a benchmark that cannot run here says why and the others go on.

    Args:
        benchmark: which one.
        asked: repeats, quick, seed.
        console: where the tables go.
        keep_in: folder to work in; a temporary one when absent.

    Returns:
        Whether every promise held.
    """
    machine, (repeats, quick, seed) = machine_here(), asked
    with working_folder(keep_in) as scratch:
        conditions = Conditions(repeats=repeats, quick=quick, scratch=scratch, seed=seed)
        try:
            measured = benchmark.measure(conditions)
        except SkippedError as reason:
            console.print(f"{benchmark.name}: skipped, {reason}")
            return True
    record = new_record(measured, conditions, machine)
    keep(record, RESULTS / f"{benchmark.name}.json")
    show(benchmark, record, console)
    return not any(finding.broken for finding in record.findings)


@contextmanager
def working_folder(keep_in: Path | None) -> Iterator[Path]:
    """That folder, which stays; or one that does not."""
    if keep_in is None:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            yield Path(folder)
    else:
        keep_in.mkdir(parents=True, exist_ok=True)
        yield keep_in.absolute()


def show(benchmark: Benchmark, record: Record, console: Console) -> None:
    """The tables of a record."""
    machine, title = record.machine, f"{benchmark.name} ({benchmark.covers})"
    here = f"{machine.cores} cores, load {machine.load}"
    if record.findings:
        console.print(findings_table(f"{title}, {here}: {counted(record.findings)}", record.findings))
    if record.figures:
        console.print(table_of(f"{title}, medians of {record.repeats}, {here}", record.figures))
    for note in notes_of(record.figures):
        console.print(f"  {note}", highlight=False)


if __name__ == "__main__":
    app()
