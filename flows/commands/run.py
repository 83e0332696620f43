"""`tuneline run`."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from configs.checks import validate
from configs.experiment import Experiment, Paths, with_environment
from configs.loading import load_experiment
from configs.overrides import override_fields
from flows.guarding import log_to
from flows.orchestration import configure_prefect, prefect_server, wait_for_server
from flows.secrets import refuse_secrets
from flows.view import watching
from tasks.foundation import faults
from tasks.tracking import redact
from tasks.training.lineage import Resume
from tasks.workspace import Workspace
from tasks.workspace.board import Board

if TYPE_CHECKING:
    from flows.ending import Ending
    from flows.outcome import FlowOutcome


def run_experiment(path: Path, overrides: Sequence[str], resume: Resume, console: Console) -> int:
    """Run the flow while its board is shown; the exit code is 0, or that of the first cell that failed.

    Raises:
        TunelineError: the experiment cannot run at all.
    """
    faults.arm()
    refuse_secrets(overrides)
    parameters = {
        "experiment": str(path),
        "overrides": override_fields(overrides),
        "resume": resume.required,
        "allow_world_size": "world_size" in resume.allow,
    }
    settings = with_environment(load_experiment(path, overrides), os.environ)
    if problems := validate(settings, rows=False):
        raise problems[0]
    runs = Paths.from_environment(os.environ).runs.absolute()
    report = runs / "reports" / settings.name
    log_to(report / "log.txt")
    configure_prefect(runs / "prefect")
    Board(report / "progress").clear()
    with prefect_server(runs / "prefect-server.log") as own, watching(report / "progress", console):
        from flows.compare_methods import compare_methods
        from flows.ending import run_to_its_end
        from flows.outcome import FlowOutcome
        from flows.reconcile import close_flow_runs
        from tasks.tracking.shipper import import_mlflow

        import_mlflow()
        wait_for_server(own, functools.partial(console.print, markup=False, highlight=False, soft_wrap=True))
        close_flow_runs(Workspace(runs=runs))
        ending = run_to_its_end(compare_methods, parameters, FlowOutcome)
    print_ending(ending, settings, report, console)
    return ending.outcome.exit_code


def print_ending(ending: Ending[FlowOutcome], settings: Experiment, report: Path, console: Console) -> None:
    """The table, what was registered, and where to look next."""
    from tasks.comparison.render import to_rich

    outcome = ending.outcome
    console.print(to_rich(outcome.comparison))
    if version := outcome.version:
        seen = " (it was there already)" if version.cached else ""
        console.print(f"\nRegistered {version.name} version {version.version} as @{version.alias}{seen}.")
    console.print(f"\nReport:  {shortest(report / 'comparison' / 'comparison.md')}", soft_wrap=True)
    console.print("Pages:   tuneline ui  (MLflow 127.0.0.1:5000, Prefect 127.0.0.1:4200)")
    if outcome.unsent_events:
        console.print(
            f"MLflow ({redact(settings.tracking.uri)}) did not take {outcome.unsent_events} events yet; "
            "they are kept and sent at the next start."
        )
    if not ending.recorded:
        console.print(
            "Prefect's server went away meanwhile; its page does not show how this run ended. Nothing is lost."
        )
    for label, error in outcome.failures:
        sys.stderr.write(f"tuneline: {label} failed: {error.error()}\n")


def shortest(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
