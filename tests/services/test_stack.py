"""The team's services as a person has them: up, used, broken, up again, down."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tasks.launch.ownership import Owner
from tasks.services.catalogue import DATABASES, SUPERUSER
from tasks.services.healthy import fetch
from tasks.services.postgres import program
from tests.flows.worlds import hear_signals
from tests.launch.worlds import wait_until
from tests.services.stack import SERVICES, RunningStack, clean_environment, processes_of
from tests.tracking.kids import create_and_wait, start

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

RUN = """
import sys
from importlib import import_module
from prefect import get_client
from prefect.deployments import run_deployment
folder, module, name, seconds = sys.argv[1:]
flow = getattr(import_module(module), name)
with get_client(sync_client=True) as client:
    client.create_deployment(
        flow_id=client.create_flow(flow), name="team", work_pool_name="tuneline", entrypoint=f"{module}.{name}",
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
    )
run = run_deployment(f"{flow.name}/team", timeout=float(seconds), poll_interval=0.5)
sys.exit(0 if seconds == "0" or run.state.is_completed() else f"{run.state}: {run.state.message}")
"""
"""A deployment as an orchestrator makes one, and a run of it by the worker."""

ASK = """
import sys
from mlflow import MlflowClient
client = MlflowClient()
[run] = client.search_runs([client.get_experiment_by_name("e").experiment_id])
sys.stdout.write(f"{run.info.status} {run.info.user_id} {run.data.tags['mlflow.runName']}")
"""

WITH_A_BLOCK = """
import sys
from prefect import get_client
from prefect.blocks.system import Secret
from prefect.client.schemas.actions import DeploymentUpdate
Secret(value=sys.argv[1]).save("hub", overwrite=True)
with get_client(sync_client=True) as client:
    deployment = client.read_deployment_by_name("reconcile/reconcile")
    environment = deployment.job_variables["env"] | {"HF_TOKEN": "{{ prefect.blocks.secret.hub }}"}
    mine = deployment.job_variables | {"env": environment}
    client.update_deployment(deployment.id, DeploymentUpdate(job_variables=mine))
    sys.stdout.write(str(client.create_flow_run_from_deployment(deployment.id).id))
"""
"""A secret block, and a run whose deployment names it."""

LONG = """
import time
from pathlib import Path
from prefect import flow

@flow
def long():
    Path("began").touch()
    time.sleep(600)
"""


def python(team: RunningStack, code: str, *arguments: str) -> str:
    """What a program prints that uses the stack as a shell with its `env` file does."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=team.folder,
        env=team.client_environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def leave_a_run_open(team: RunningStack) -> None:
    """A run whose process was killed, in the journals of the worker's runs folder."""
    told = team.folder / "told"
    process = start(create_and_wait, team.folder / "runs" / "spool", told)
    wait_until(told.exists)
    process.kill()
    process.join()


def test_a_flow_run_of_the_worker_ends_in_mlflow_what_was_left_open(team: RunningStack) -> None:
    leave_a_run_open(team)

    python(team, RUN, str(team.folder), "flows.reconcile", "reconcile_left_open", "150")

    status, _, _ = python(team, ASK).split(" ", 2)
    assert status == "KILLED"


def test_up_again_changes_nothing(team: RunningStack) -> None:
    before = {name: team.pid(name) for name in SERVICES}
    secrets = team.secrets

    again = team.tuneline("stack", "up")

    assert again.returncode == 0
    assert "is up" not in again.stdout
    assert {name: team.pid(name) for name in SERVICES} == before
    assert team.secrets == secrets


def test_status_has_a_line_for_each_service_and_says_that_all_are_healthy(team: RunningStack) -> None:
    status = team.tuneline("stack", "status")

    assert status.returncode == 0, status.stdout
    for line, name in zip(status.stdout.splitlines()[1:], SERVICES, strict=True):
        assert line.split()[:2] == [name, str(team.pid(name))]
        assert line.split()[-1] == "yes"


def dump(team: RunningStack, database: str) -> str:
    """All that a database holds."""
    address = team.stack.place.postgres
    where = ["--host", address.host, "--port", str(address.port), "--username", SUPERUSER, database]
    password = clean_environment() | {"PGPASSWORD": team.secrets["postgres"]}
    done = subprocess.run([program("pg_dump"), *where], env=password, capture_output=True, text=True, check=True)
    return done.stdout


def test_no_secret_is_in_a_command_a_log_a_database_or_what_is_printed(team: RunningStack) -> None:
    values = {part for value in team.secrets.values() for part in (value, value.rpartition(":")[2])}
    seen = {"status": team.tuneline("stack", "status").stdout, "up": team.tuneline("stack", "up").stdout}
    seen |= {str(log): log.read_text(errors="replace") for log in (team.stack.folder / "logs").iterdir()}
    seen |= {database: dump(team, database) for database in DATABASES}
    for process in psutil.process_iter(["cmdline"]):
        seen[f"pid {process.pid}"] = " ".join(process.info["cmdline"] or [])

    assert len(team.processes()) >= 4
    assert [where for where, text in seen.items() if any(value in text for value in values)] == []


def test_what_a_secret_block_holds_is_in_the_environment_of_a_run_and_in_no_log_or_database(team: RunningStack) -> None:
    word = "word-of-the-hub"
    run = python(team, WITH_A_BLOCK, word)
    wait_until(lambda: word in tokens_of(run), 60, 0.1)
    wait_until(lambda: processes_of(run) == [], 120, 0.5)
    logs = "".join(team.stack.log(service).read_text(encoding="utf-8") for service in SERVICES)
    assert word not in logs + dump(team, "prefect")


def tokens_of(flow_run: str) -> set[str | None]:
    """HF_TOKEN in the environment of all that works for a flow run."""
    found = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    return {one.get("HF_TOKEN") for one in found if one.get("PREFECT__FLOW_RUN_ID") == flow_run}


def test_nobody_else_can_read_what_the_stack_keeps(team: RunningStack) -> None:
    folder = team.stack.folder
    others = {team.stack.postgres_folder, folder / "prefect" / "pages"}  # of Postgres' user; files of the page
    kept = [path for path in folder.rglob("*") if others.isdisjoint(path.parents)]
    open_to_others = [str(path) for path in kept if stat.S_IMODE(path.lstat().st_mode) & 0o007]

    assert open_to_others == []
    assert {stat.S_IMODE(file.stat().st_mode) for file in team.stack.secrets.iterdir()} == {0o600}
    assert stat.S_IMODE(team.stack.environment_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) in (0o700, 0o710)
    assert stat.S_IMODE((team.stack.postgres_folder / "data").stat().st_mode) == 0o700


def test_the_workers_user_reads_what_others_made_and_changes_only_its_own(team: RunningStack) -> None:
    mlflow = f"http://{team.stack.place.mlflow}/api/2.0/mlflow"
    admin, worker = (f"{user}:{team.secrets[f'mlflow-{user}']}" for user in ("admin", "worker"))
    made = fetch(f"{mlflow}/experiments/create", admin, {"name": f"of-admin-{time.time()}"})
    own = fetch(f"{mlflow}/experiments/create", worker, {"name": f"of-worker-{time.time()}"})

    assert fetch(f"{mlflow}/experiments/get?experiment_id={made['experiment_id']}", worker)
    fetch(f"{mlflow}/experiments/delete", worker, {"experiment_id": own["experiment_id"]})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(f"{mlflow}/experiments/delete", worker, {"experiment_id": made["experiment_id"]})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(f"{mlflow}/users/create", worker, {"username": "friend", "password": "a-long-password-of-mine"})


def test_postgres_lets_nobody_in_without_the_password_and_no_role_into_anothers_database(team: RunningStack) -> None:
    import psycopg

    address = team.stack.place.postgres
    where = {"host": address.host, "port": address.port, "connect_timeout": 5}
    for user, password, database in (
        ("tuneline", "", "postgres"),
        ("mlflow", "guessed-wrong", "mlflow"),
        ("mlflow", team.secrets["mlflow-database"], "prefect"),
        ("prefect", team.secrets["prefect-database"], "mlflow_auth"),
    ):
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(**where, user=user, password=password, dbname=database)  # type: ignore[arg-type]


def test_services_that_were_killed_are_told_and_start_again(team: RunningStack) -> None:
    for name in ("mlflow", "worker"):
        os.kill(team.pid(name), signal.SIGKILL)
    wait_until(lambda: not any(psutil.pid_exists(team.pid(name)) for name in ("mlflow", "worker")))
    kept = team.pid("prefect")
    told = team.tuneline("stack", "status")
    assert told.returncode == 21
    assert told.stdout.count("not running") == 2

    again = team.tuneline("stack", "up")

    assert again.returncode == 0, again.stderr
    assert [line for line in again.stdout.splitlines() if "is up" in line] == ["mlflow is up", "worker is up"]
    assert team.pid("prefect") == kept
    assert team.tuneline("stack", "status").returncode == 0


def test_a_record_of_a_pid_that_somebody_else_has_by_now_is_not_believed(team: RunningStack) -> None:
    record = team.stack.record("worker")
    honest = Owner.model_validate_json(record.read_bytes())
    try:
        record.write_text(honest.model_copy(update={"pid": os.getpid()}).model_dump_json())
        told = team.tuneline("stack", "status")
    finally:
        record.write_text(honest.model_dump_json())

    assert told.returncode == 21 and "worker" in told.stdout and "not running" in told.stdout


def test_other_ports_are_refused_while_it_runs(team: RunningStack) -> None:
    refused = team.tuneline("stack", "up", "--mlflow-port", "5999")

    assert refused.returncode == 10
    assert "mlflow runs with other settings" in refused.stderr and refused.stderr.count("\n") == 1
    assert team.stack.place.mlflow.port != 5999


def test_down_ends_all_of_it_and_up_finds_its_data_again(team: RunningStack) -> None:
    (team.folder / "long_flow.py").write_text(LONG)
    fetch(
        f"http://{team.stack.place.mlflow}/api/2.0/mlflow/experiments/create",
        f"admin:{team.secrets['mlflow-admin']}",
        {"name": "kept"},
    )
    python(team, RUN, str(team.folder), "long_flow", "long", "0")
    wait_until((team.folder / "began").exists, 60)
    before = team.stack.postgres_folder / "data" / "postmaster.pid"
    assert len(team.processes()) > 4 and before.exists()

    down, again = team.tuneline("stack", "down"), team.tuneline("stack", "down")

    assert (down.returncode, again.returncode) == (0, 0)
    assert [line.split()[0] for line in down.stdout.splitlines() if "stopped" in line] == list(reversed(SERVICES))
    assert again.stdout == "The stack is down.\n"
    assert team.processes() == [] and not before.exists()
    assert team.tuneline("stack", "status").returncode == 21

    stay = subprocess.Popen(
        [sys.executable, "-m", "flows", "stack", "up", "--foreground"],
        cwd=team.folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_signals,
    )
    assert stay.stdout is not None
    assert any("Ctrl-C" in line for line in stay.stdout)
    found = fetch(
        f"http://{team.stack.place.mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept",
        f"worker:{team.secrets['mlflow-worker']}",
    )
    assert found["experiment"]["name"] == "kept"

    stay.send_signal(signal.SIGINT)

    assert stay.wait(60) == 130
    stay.stdout.close()
    assert team.processes() == []


def test_a_port_that_is_taken_is_one_clear_line_and_nothing_starts(stopped: RunningStack) -> None:
    address = stopped.stack.place.mlflow
    with closing(socket.create_server((address.host, address.port))):
        refused = stopped.tuneline("stack", "up")
        told = stopped.tuneline("stack", "status")

    assert refused.returncode == 20
    assert refused.stderr.count("\n") == 1 and f"port {address.port} is in use by another program" in refused.stderr
    assert told.returncode == 20 and "another program has its port" in " ".join(told.stdout.split())
    assert told.stdout.count("not running") == 4


def test_a_service_that_ends_at_once_is_told_with_its_last_words(stopped: RunningStack) -> None:
    settings = stopped.stack.postgres_folder / "data" / "postgresql.conf"
    honest = settings.read_text()
    settings.write_text(honest + "\nno_such_setting = 1\n")
    try:
        refused = stopped.tuneline("stack", "up")
    finally:
        settings.write_text(honest)

    assert refused.returncode == 21
    assert "postgres did not start" in refused.stderr and "FATAL" in refused.stderr
    assert Path(refused.stderr.split(":")[1].strip()) == stopped.stack.log("postgres")
