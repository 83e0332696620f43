"""`tuneline`: starts flows and prints results. Heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer.exceptions import TyperException

from flows.guarding import leave, run_guarded
from tasks.foundation.errors import ConfigError, InterruptedRunError

app = typer.Typer(
    name="tuneline",
    help="Fine-tune a language model with every method, compare them fairly, register the winner.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
stack = typer.Typer(
    help="Postgres, MLflow, Prefect and a worker on this machine, with passwords.", no_args_is_help=True
)
app.add_typer(stack, name="stack")

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment, a YAML file.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Changes as key=value, for example training.max_steps=100.")
]

RegisteredName = Annotated[str, typer.Argument(metavar="MODEL", help="A registered model.", show_default=False)]
Reason = Annotated[str, typer.Option(help="Why; it stays in the promotion log.", show_default=False)]


@app.command()
def run(
    experiment: ExperimentFile,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from checkpoints, or refuse with what has changed since.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="What may differ from the checkpoint: world_size. Repeatable; implies --resume."),
    ] = None,
) -> None:
    """Train, merge, evaluate and compare every method of an experiment; register the winner."""
    from flows.commands.run import run_experiment
    from tasks.training.lineage import parse_resume

    raise typer.Exit(run_experiment(experiment, overrides or [], parse_resume(resume, allow or []), Console()))


@app.command()
def validate(experiment: ExperimentFile, overrides: Overrides = None) -> None:
    """Check an experiment, its data and its model without training anything."""
    from flows.commands.validate import validate_experiment

    raise typer.Exit(validate_experiment(experiment, overrides or [], Console()))


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A data file: json, jsonl, csv, tsv, parquet or txt.")],
    model: Annotated[str, typer.Argument(help="A model folder or hub id.")] = "embedded:tiny-llama",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write.")] = Path("experiment.yaml"),
) -> None:
    """Look at a data file and a model, and write a commented experiment.

    Data that tuneline makes itself need no file: `data.train: embedded:TASK`, where TASK is records-en, records-zh,
    sentiment-en or sentiment-zh.
    """
    from flows.commands.init import write_experiment

    write_experiment(data, model, output, Console())


@app.command()
def manifest(
    experiment: ExperimentFile,
    image: Annotated[str, typer.Option(help="Container image with tuneline installed.", show_default=False)],
    overrides: Overrides = None,
    kind: Annotated[str, typer.Option(help="job, or jobset (needs the JobSet controller).")] = "job",
    namespace: Annotated[str, typer.Option(help="Namespace of all objects.")] = "default",
    cpu: Annotated[str, typer.Option(help="Cores of each pod.")] = "8",
    memory: Annotated[str, typer.Option(help="Memory of each pod.")] = "64Gi",
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim for the runs folder.")] = "tuneline-runs",
    secret: Annotated[list[str] | None, typer.Option(help="Secret whose keys become variables; repeatable.")] = None,
) -> None:
    """Print an experiment as Kubernetes objects (YAML), for `kubectl apply -f -`."""
    from flows.commands.manifest import manifest_text

    options = {"image": image, "kind": kind, "namespace": namespace, "cpu": cpu, "memory": memory, "claim": claim}
    sys.stdout.write(manifest_text(experiment, overrides or [], options | {"secrets": tuple(secret or ())}))


@app.command()
def methods(
    kind: Annotated[str | None, typer.Argument(help="One method, in full.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All of them, in full, as a page.")] = False,
) -> None:
    """List the fine-tuning methods, or explain one."""
    from flows.commands.methods import show_methods
    from flows.commands.methods_reference import methods_reference

    if markdown:
        sys.stdout.write(methods_reference())
    else:
        show_methods(kind, Console())


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="RUN", help="An experiment's name.")]) -> None:
    """Show the comparison of a finished experiment, or how far a running one is."""
    from flows.commands.show import show_run

    show_run(name, Console())


@app.command()
def promote(
    model: RegisteredName,
    reason: Reason,
    version: Annotated[int, typer.Option(help="The version; without it the one at the alias.")] = 0,
    alias: Annotated[str, typer.Option(help="The alias whose version is promoted.")] = "challenger",
    gate: Annotated[str, typer.Option(help="A file with another gate than the version's own.")] = "",
) -> None:
    """Make a registered version the champion, if it passes its gate."""
    from configs.gate import ask_for, nominated
    from flows.commands.promotion import promote_version

    ask = nominated(ask_for(model, reason, os.environ), version, alias, gate)
    raise typer.Exit(promote_version(ask, Console()))


@app.command()
def rollback(
    model: RegisteredName,
    reason: Reason,
    version: Annotated[int, typer.Option(help="An earlier champion; without it the one before.")] = 0,
) -> None:
    """Make the champion before the present one the champion again. It needs MLflow only."""
    from flows.commands.promotion import roll_back_model

    raise typer.Exit(roll_back_model(model, reason, version, Console()))


@app.command()
def history(
    model: RegisteredName,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain, the evidence, and where the alias stands.")
    ] = False,
) -> None:
    """Show who promoted what, when, why, and on what evidence."""
    from flows.commands.promotion import show_history

    raise typer.Exit(show_history(model, Console(), check=verify))


@app.command()
def ui(
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect's page.")] = 4200,
    uri: Annotated[str | None, typer.Option(help="MLflow's tracking URI, when it is not the default.")] = None,
) -> None:
    """Serve MLflow's and Prefect's pages over what was recorded here, until Ctrl-C."""
    from flows.commands.ui import serve_pages

    serve_pages(mlflow_port, prefect_port, uri, Console())


@app.command()
def serve(
    model: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS, NAME:VERSION, or the folder of a downloaded one.")],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 5001,
    workers: Annotated[int, typer.Option(help="Processes, each with the model in memory.", min=1)] = 1,
    uri: Annotated[str | None, typer.Option(help="MLflow's tracking URI, when it is not the default.")] = None,
) -> None:
    """Serve a registered model over HTTP until Ctrl-C: the champion, unless an alias or a version is named."""
    from flows.commands.serve import serve_model
    from flows.model_server import Place

    serve_model(model, Place(host=host, port=port, workers=workers), uri, Console())


@app.command()
def reap(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is.")] = False,
    grace: Annotated[float, typer.Option(help="Seconds that ranks get to save a checkpoint.", min=0)] = 15.0,
) -> None:
    """End processes of runs whose pipeline is dead; those of a living one, and of other users, are never touched."""
    from flows.commands.reap import reap_orphans

    reap_orphans(grace, Console(), dry_run=dry_run)


@app.command()
def reconcile(
    every: Annotated[float | None, typer.Option(help="Go on, and look again after so many seconds.", min=1)] = None,
    uri: Annotated[str | None, typer.Option(help="MLflow's tracking URI, when it is not the default.")] = None,
    all_hosts: Annotated[bool, typer.Option("--all-hosts", help="Also runs of hosts that share the folder.")] = False,
) -> None:
    """Close what a power cut left open: runs in MLflow, and flow runs in Prefect, whose process is dead."""
    from flows.commands.reconcile import reconcile_runs

    reconcile_runs(uri, every, Console(), all_hosts=all_hosts)


@app.command()
def setup_orchestration(
    file: Annotated[
        Path | None, typer.Option(help="Which deployments there are; infra/prefect.yaml when absent.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="Accelerators of all nodes together; this node's when absent.", min=1)
    ] = None,
    no_progress_minutes: Annotated[
        float, typer.Option(help="How long a run may show no progress before it counts as crashed.", min=0.2)
    ] = 60.0,
) -> None:
    """Make deployments, schedules, limits and automations on Prefect's server; again to bring them up to date."""
    from flows.commands.setup_orchestration import set_up

    set_up(file, slots, no_progress_minutes, Console())


@app.command()
def doctor() -> None:
    """Look at this machine: versions, accelerators, disk, servers."""
    from flows.commands.doctor import examine

    raise typer.Exit(examine(Console()))


@stack.command("up")
def stack_up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, and stop all of it on Ctrl-C.")] = False,
    postgres_port: Annotated[int | None, typer.Option(help="15432, or the one of the last start.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="5000, or the one of the last start.")] = None,
    prefect_port: Annotated[int | None, typer.Option(help="4200, or the one of the last start.")] = None,
) -> None:
    """Start what does not run yet. The first start makes databases and passwords."""
    from flows.commands.stack import start_stack
    from tasks.services.layout import Ports

    ports = Ports(postgres=postgres_port, mlflow=mlflow_port, prefect=prefect_port)
    start_stack(ports, Console(), foreground=foreground)


@stack.command("down")
def stack_down() -> None:
    """Stop all of it; what is stored stays."""
    from flows.commands.stack import stop_stack

    stop_stack(Console())


@stack.command("status")
def stack_status() -> None:
    """A line for each service; exit code 0 only if all are healthy."""
    from flows.commands.stack import show_stack

    raise typer.Exit(show_stack(Console()))


@stack.command("env")
def stack_env() -> None:
    """Print the path of a file to `source`: addresses and passwords for a shell."""
    from flows.commands.stack import environment_file

    typer.echo(environment_file())


def call() -> int:
    """Parse the command line and run the command; without one, show the help.

    Raises:
        ConfigError: the command line is wrong.
        KeyboardInterrupt: Ctrl-C. Typer makes an exit code of it, which says nothing to anybody.
    """
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except TyperException as error:
        what = getattr(error, "format_message", error.__str__)()
        raise ConfigError(what, where="command line", fix="See tuneline --help") from error
    if code == InterruptedRunError.exit_code:
        raise KeyboardInterrupt
    return int(code)


def main() -> None:
    """Entry point of the console script; the exit code tells the cause of a failure."""
    os.umask(0o077)
    leave(run_guarded(call))
