"""`python -m benchmarks [NAME] [--repeats 3] [--quick]`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.base import Benchmark, Conditions, SkippedError, all_benchmarks
from benchmarks.records import RESULTS, keep, machine_here, new_record
from benchmarks.table import notes_of, table_of

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="A benchmark, or `all`; without it they are listed.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each side.")] = 3,
    quick: Annotated[bool, typer.Option(help="Small sizes: to see that it works, not to measure.")] = False,
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
    for kind in known.values() if name == "all" else [known[name]]:
        run(kind(), repeats, quick, console)


def show_names(console: Console, known: dict[str, type[Benchmark]]) -> None:
    for name, kind in known.items():
        console.print(f"{name:14} {kind.covers:4} {kind.question}", highlight=False)


def run(benchmark: Benchmark, repeats: int, quick: bool, console: Console) -> None:
    """Measure, show, keep; a benchmark that cannot run here says why and the others go on."""
    machine = machine_here()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        conditions = Conditions(repeats=repeats, quick=quick, scratch=Path(scratch))
        try:
            figures = benchmark.measure(conditions)
        except SkippedError as reason:
            console.print(f"{benchmark.name}: skipped, {reason}")
            return
    title = f"{benchmark.name} ({benchmark.covers}), medians of {repeats}, {machine.cores} cores, load {machine.load}"
    console.print(table_of(title, figures))
    for note in notes_of(figures):
        console.print(f"  {note}", highlight=False)
    keep(new_record(figures, conditions, machine), RESULTS / f"{benchmark.name}.json")


if __name__ == "__main__":
    app()
