"""What containers are told is what `tuneline stack` tells its processes, and each difference has its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest

from tasks.services.catalogue import POOL, SECRETS, SUPERUSER, Service, mlflow_auth_file
from tests.infra import files

COMPOSE = files.compose()["services"]
PODS = dict(files.pods())
OF_THE_STORE = "where the object store is, and that its credentials stand in a file"
MORE = {
    "postgres": {
        "POSTGRES_USER": "read by the image's start script, which makes the cluster",
        "POSTGRES_PASSWORD_FILE": "the same",
        "POSTGRES_INITDB_ARGS": "the same; processes pass them to initdb",
        "PGDATA": "a folder below the mount, which may hold lost+found",
    },
    "mlflow": {
        "MLFLOW_S3_ENDPOINT_URL": OF_THE_STORE,
        "AWS_DEFAULT_REGION": OF_THE_STORE,
        "AWS_SHARED_CREDENTIALS_FILE": OF_THE_STORE,
        "AWS_EC2_METADATA_DISABLED": "it does not ask the cloud's metadata address for others",
        "MLFLOW_HOST": "a name for the site's host, used by the settings after it",
    },
    "prefect": {
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "a step of its own does it, once, before the server starts",
        "PAGE_HOST": "a name for the site's host, used by the settings after it",
    },
    "worker": {
        "PREFECT_WORKER_WEBSERVER_HOST": "its health is asked for inside its own container",
    },
}
"""Variables that only containers have."""

SOCKET = "the image's start script makes roles through a socket, in memory, which no other container sees"
ELSEWHERE = {"unix_socket_directories": SOCKET}
"""Options of Postgres that differ."""


def postgres_options(command: Iterable[str]) -> dict[str, str]:
    text = "\n".join(command).replace("-c\n", "-c")
    return dict(line[2:].split("=", 1) for line in text.splitlines() if line.startswith("-c"))


def check_variables(told: dict[str, str], service: Service, more: Iterable[str]) -> None:
    assert {name: told.get(name) for name in service.settings} == service.settings
    assert sorted(set(told) - set(service.settings) - set(more)) == [], "neither in the catalogue nor in MORE"


def secrets_of(one: files.Tree) -> dict[str, str]:
    """File below /run/secrets -> secret."""
    entries = [{"source": entry} if isinstance(entry, str) else entry for entry in one.get("secrets", [])]
    return {entry.get("target", entry["source"]): entry["source"] for entry in entries}


def variables_only(secrets: dict[str, str]) -> dict[str, str]:
    return {name: source for name, source in secrets.items() if re.fullmatch(r"[A-Z_][A-Z0-9_]*", name)}


@pytest.mark.parametrize("name", ["postgres", "mlflow", "prefect", "worker"])
def test_compose_tells_each_service_what_the_catalogue_says(name: str) -> None:
    service, one = files.expected(files.COMPOSE_PLACE)[name], COMPOSE[name]
    check_variables(one["environment"], service, MORE[name])
    assert variables_only(secrets_of(one)) == service.secrets
    assert set(one.get("depends_on", {})) >= set(service.needs)
    assert all(one["depends_on"][need]["condition"] == "service_healthy" for need in service.needs)
    assert one.get("stop_signal", "SIGTERM") == service.stop_signal
    if service.health:
        assert (
            f"http://127.0.0.1:{service.address and service.address.port}{service.health}" in one["healthcheck"]["test"]
        )


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_servers_are_started_with_the_same_command_everywhere(name: str) -> None:
    command = list(files.expected(files.COMPOSE_PLACE)[name].command)
    assert COMPOSE[name]["command"] == command
    [container] = PODS[name]["containers"]
    assert container["args"] == command


def test_workers_are_started_with_the_same_command_and_can_be_asked_for_their_health() -> None:
    command = [*files.expected(files.COMPOSE_PLACE)["worker"].command, "--with-healthcheck"]
    assert COMPOSE["worker"]["command"] == COMPOSE["worker-cuda"]["command"] == command
    assert COMPOSE["worker"]["environment"] == COMPOSE["worker-cuda"]["environment"]
    [container] = PODS["pool"]["containers"]
    assert container["args"][: len(command)] == ["kubernetes" if word == "process" else word for word in command]
    assert POOL in command


def test_postgres_has_the_same_options_everywhere() -> None:
    expected = postgres_options(files.expected(files.COMPOSE_PLACE)["postgres"].command)
    [container] = PODS["postgres"]["containers"]
    for command in (COMPOSE["postgres"]["command"], container["args"]):
        options = postgres_options(command)
        assert {name: value for name, value in options.items() if name not in ELSEWHERE} == {
            name: value for name, value in expected.items() if name not in ELSEWHERE
        }
        assert set(options) == set(expected)
    assert COMPOSE["postgres"]["environment"]["POSTGRES_USER"] == SUPERUSER


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_the_cluster_tells_each_server_what_the_catalogue_says(name: str) -> None:
    service, [container] = files.expected(files.CLUSTER_PLACE)[name], PODS[name]["containers"]
    check_variables(files.variables(container), service, MORE[name])
    assert variables_only(files.mounted_secrets(PODS[name], container)) == service.secrets
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {
        service.health
    }
    assert [port["containerPort"] for port in container["ports"]] == [service.address and service.address.port]


def test_a_run_in_the_cluster_is_told_what_a_worker_is() -> None:
    service, [pool] = files.expected(files.CLUSTER_PLACE)["worker"], PODS["pool"]["containers"]
    of_the_pool = files.variables(pool)
    handed_on = {name: value for name, value in of_the_pool.items() if name.startswith("PREFECT_")}  # Prefect does
    told = handed_on | files.job_template()["variables"]["properties"]["env"]["default"]
    assert {name: told.get(name) for name in service.settings} == service.settings
    [run] = PODS["run"]["containers"]
    prefix = "PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET"
    assert of_the_pool[f"{prefix}_NAME"] == "tuneline"
    secrets = files.mounted_secrets(PODS["run"], run) | {"PREFECT_API_AUTH_STRING": of_the_pool[f"{prefix}_KEY"]}
    assert secrets == service.secrets


@pytest.mark.parametrize("place", ["compose", "cluster"])
def test_steps_before_a_server_see_the_same_databases(place: str) -> None:
    if place == "compose":
        steps = {"mlflow": COMPOSE["migrate"]["environment"], "prefect": COMPOSE["migrate"]["environment"]}
    else:
        steps = {
            name: files.variables(step)
            for name in ("mlflow", "prefect")
            for step in PODS[name]["initContainers"]
            if step["name"] == "migrate"
        }
    for name, told in steps.items():
        wanted = files.expected(files.COMPOSE_PLACE)[name].settings
        stores = {one for one in wanted if "_DATABASE_" in one or "_STORE_URI" in one or one.endswith("_CONFIG_PATH")}
        assert stores and {one: told.get(one) for one in stores} == {one: wanted[one] for one in stores}
        ours = {one: value for one, value in told.items() if one in wanted and one != "PREFECT_HOME"}
        assert ours == {one: wanted[one] for one in ours}


def test_mlflows_file_for_users_is_the_catalogues() -> None:
    assert (files.IMAGES / "auth.ini").read_text(encoding="utf-8") == mlflow_auth_file(files.COMPOSE_PLACE)
    assert mlflow_auth_file(files.COMPOSE_PLACE) == mlflow_auth_file(files.CLUSTER_PLACE)


def test_every_secret_of_the_catalogue_is_a_file_of_the_compose_file() -> None:
    given = files.compose()["secrets"]
    assert set(SECRETS) <= set(given)
    assert {name: one["file"] for name, one in given.items()} == {name: f"./secrets/{name}" for name in given}


def test_the_runbook_says_how_to_rotate_every_secret_and_which_images_are_used() -> None:
    text = (files.ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    rotation = text.partition("## Rotate passwords")[2].partition("\n## ")[0]
    derived = {"s3-identities.json"}
    assert all(f"`{name}`" in rotation for name in set(files.compose()["secrets"]) - derived)
    dockerfile = (files.IMAGES / "Dockerfile").read_text(encoding="utf-8")
    assert all(f"`{image}`" in text for image in re.findall(r"^ARG [A-Z]+=(\S+)@sha256", dockerfile, re.M))
