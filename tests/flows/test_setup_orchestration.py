"""`tuneline setup-orchestration` against a real server: made once, brought up to date, and never a person's loss."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.events.actions import DoNothing
from prefect.events.schemas.automations import AutomationCore

from flows.declared import FILE
from flows.reconcile import prefect_client
from tests.flows.worlds import tuneline, write_world

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
OBJECTS = ("work_pools", "v2/concurrency_limits", "deployments", "automations", "block_documents")
NIGHTLY = "compare-methods/nightly"
FAILURES = "tuneline: after a failure"


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shipped file, which tests may change."""
    content = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("declared") / "prefect.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, declared: Path, prefect_server: str) -> Path:
    """A folder, set up once."""
    folder = tmp_path_factory.mktemp("orchestration")
    write_world(folder)
    lines = set_up(folder, declared)
    assert [line for line in lines if not line.endswith(": created")] == [], lines
    return folder


def set_up(folder: Path, declared: Path, *options: str, **variables: str) -> list[str]:
    done = tuneline(folder, "setup-orchestration", "--file", str(declared), *options, **variables)
    assert done.returncode == 0, done.stderr
    *lines, note = done.stdout.splitlines()
    assert note.startswith("note: this server keeps the leases of limits in memory"), done.stdout
    return lines


def everything(server: str) -> dict[str, Any]:
    """All that the server holds, as it is stored."""
    found = {}
    for name in OBJECTS:
        answer = httpx.post(f"{server}/{name}/filter", json={}).json()
        found[name] = sorted(answer, key=lambda each: each["id"])
    return found


def test_a_second_time_changes_nothing(world: Path, declared: Path, prefect_server: str) -> None:
    before = everything(prefect_server)
    lines = set_up(world, declared)
    assert [line for line in lines if not line.endswith(": unchanged")] == []
    assert everything(prefect_server) == before
    names = {each["name"] for each in before["automations"]}
    assert names >= {FAILURES, "tuneline: no progress", "tuneline: late runs"}


def test_what_a_person_changed_or_added_stays(world: Path, declared: Path, prefect_server: str) -> None:
    hourly = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=False)
    with prefect_client() as client:
        nightly = client.read_deployment_by_name(NIGHTLY)
        client.create_deployment_schedules(nightly.id, [hourly])
        client.update_deployment_schedule(nightly.id, nightly.schedules[0].id, active=False)
        environment = {"HF_TOKEN": "{{ prefect.blocks.secret.hub }}"} | nightly.job_variables["env"]
        mine = nightly.job_variables | {"env": environment, "stream_output": False}
        changed = DeploymentUpdate(parameters={"experiment": "shipped:demo-zh"}, job_variables=mine)
        client.update_deployment(nightly.id, changed)
        (automation,) = client.read_automations_by_name(FAILURES)
        actions = [*automation.actions, DoNothing(type="do-nothing")]
        other = AutomationCore(
            **automation.model_dump(exclude={"id", "owner_resource", "enabled", "actions"}),
            enabled=False,
            actions=actions,
        )
        client.update_automation(automation.id, other)
    before = everything(prefect_server)
    set_up(world, declared)
    assert everything(prefect_server) == before


def test_drop_downs_follow_what_lies_there(world: Path, declared: Path, prefect_server: str) -> None:
    (world / "experiments").mkdir()
    (world / "experiments" / "mine.yaml").write_bytes((world / "toy.yaml").read_bytes())
    lines = set_up(world, declared)
    assert "deployment compare-methods/compare-methods: changed (parameter_openapi_schema)" in lines
    with prefect_client() as client:
        deployment = client.read_deployment_by_name("compare-methods/compare-methods")
    assert deployment.parameter_openapi_schema
    choices = deployment.parameter_openapi_schema["properties"]["experiment"]["enum"]
    assert choices[0] == "experiments/mine.yaml" and "shipped:demo" in choices
    refused = httpx.post(
        f"{prefect_server}/deployments/{deployment.id}/create_flow_run", json={"parameters": {"experiment": "other"}}
    )
    assert refused.status_code == 409 and "'other' is not one of" in refused.text


def test_the_limit_changes_only_when_it_is_asked_for(world: Path, declared: Path, prefect_server: str) -> None:
    assert "limit tuneline-accelerators (3): changed (limit 1 to 3)" in set_up(world, declared, "--slots", "3")
    assert "limit tuneline-accelerators (3): unchanged" in set_up(world, declared)


def test_a_notification_has_its_address_as_a_secret(world: Path, declared: Path, prefect_server: str) -> None:
    address = "https://hooks.example.org/s3cret-word"
    lines = set_up(world, declared, TUNELINE_NOTIFY_URL=address)
    assert {"block tuneline-notify: created", "automation tuneline: late runs: changed (actions)"} <= set(lines)
    stored = str(everything(prefect_server)) + (world / "runs" / "setup-orchestration.log").read_text()
    assert "s3cret-word" not in stored + "".join(lines)
    assert "block tuneline-notify: unchanged" in set_up(world, declared, TUNELINE_NOTIFY_URL=address)


def test_a_server_that_is_away_is_named(world: Path, declared: Path) -> None:
    gone = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    done = tuneline(world, "setup-orchestration", "--file", str(declared), **gone)
    assert (done.returncode, len(done.stderr.splitlines())) == (21, 1), done.stderr
    assert "http://127.0.0.1:9/api" in done.stderr


def test_prefects_own_command_takes_the_file_as_well(world: Path, declared: Path, prefect_server: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(declared)]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with prefect_client() as client:
        nightly = client.read_deployment_by_name(NIGHTLY)
    assert nightly.global_concurrency_limit and nightly.global_concurrency_limit.limit == 1
    assert [(each.slug, each.active) for each in nightly.schedules] == [("nightly", False)]
