"""compose.yaml: valid for Docker's own tool, and hardened in every service."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.infra import files

TREE = files.compose()
SERVICES = TREE["services"]
PUBLISHED = {"mlflow": "127.0.0.1:5000:5000", "prefect": "127.0.0.1:4200:4200"}
SECRET_NAME = re.compile(r"PASSWORD$|SECRET|TOKEN|_KEY$|AUTH_STRING")
each = pytest.mark.parametrize("name", sorted(SERVICES))


def compose_tool() -> list[str]:
    """`docker compose` where it is installed, else the same program by itself. Neither needs an engine for `config`."""
    if alone := files.tool("docker-compose"):
        return [alone]
    plugin = files.tool("docker")
    if plugin and not subprocess.run([plugin, "compose", "version"], capture_output=True, check=False).returncode:
        return [plugin, "compose"]
    pytest.skip("neither docker compose nor docker-compose is installed")


def rendered(folder: Path, *profiles: str) -> files.Tree:
    """What the tool makes of the file, with the values of .env.example."""
    options = ["--file", str(files.COMPOSE / "compose.yaml"), "--env-file", str(files.COMPOSE / ".env.example")]
    command = [*compose_tool(), *options, *(f"--profile={one}" for one in profiles), "config", "--format", "json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TUNELINE_", "COMPOSE_"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "variable is not set" not in done.stderr
    tree: files.Tree = json.loads(done.stdout)
    return tree


def test_dockers_own_tool_accepts_the_file_and_sees_what_these_tests_see(tmp_path: Path) -> None:
    seen = rendered(tmp_path, "*")["services"]
    assert set(seen) == set(SERVICES)
    for name, one in seen.items():
        assert one["image"] == SERVICES[name]["image"]
        assert one.get("environment", {}) == SERVICES[name].get("environment", {})
        assert one["read_only"] is True


def test_the_example_settings_start_servers_and_one_worker(tmp_path: Path) -> None:
    started = set(rendered(tmp_path)["services"])
    assert {"postgres", "object-store", "mlflow", "prefect", "worker"} <= started
    assert not started & {"worker-cuda", "backup", "restore"}


def test_every_variable_has_a_line_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (files.COMPOSE / "compose.yaml").read_text(encoding="utf-8")))
    example = (files.COMPOSE / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^([A-Z_]+)=(.*)$", example, re.M))
    assert set(given) == used | {"COMPOSE_PROFILES"}
    text = (files.COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    assert all(given[name] == default for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))


@each
def test_a_service_runs_with_no_more_rights_than_it_needs(name: str) -> None:
    one = SERVICES[name]
    user, group = one["user"].split(":")
    assert int(user) > 0 and int(group) > 0
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"] and "cap_add" not in one
    assert "no-new-privileges:true" in one["security_opt"]
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "userns_mode", "extra_hosts"} & set(one)
    assert "docker.sock" not in str(one)


@each
def test_a_service_has_limits_and_is_watched(name: str) -> None:
    one = SERVICES[name]
    assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert one["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    if one["healthcheck"].get("disable"):
        assert one["restart"] in ("on-failure:5", "no"), "only what ends by itself needs no health check"
    else:
        assert one["restart"] == "unless-stopped"
        assert one["healthcheck"]["test"][0] == "CMD"


@each
def test_no_secret_stands_in_what_docker_inspect_shows(name: str) -> None:
    one = SERVICES[name]
    for variable, value in one.get("environment", {}).items():
        assert not SECRET_NAME.search(variable), f"{variable} belongs into a file"
        assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{variable} holds a password"
    assert {secret["source"] if isinstance(secret, dict) else secret for secret in one.get("secrets", [])} <= set(
        TREE["secrets"]
    )


@each
def test_an_image_is_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":\d+(\.\d+)+(-\w+)?(@sha256:[0-9a-f]{64})?$", image), image


def test_only_the_two_pages_are_published_and_only_to_this_machine() -> None:
    assert {name: one["ports"] for name, one in SERVICES.items() if "ports" in one} == {
        name: [port] for name, port in PUBLISHED.items()
    }


def neighbours(name: str) -> set[str]:
    """Who shares a network with it other than that of the published ports, where nobody reaches anybody."""
    mine = set(SERVICES[name]["networks"]) - {"pages"}
    return {other for other, one in SERVICES.items() if other != name and mine & set(one["networks"])}


@pytest.mark.parametrize("name", ["postgres", "object-store"])
def test_a_store_is_reached_by_its_clients_alone(name: str) -> None:
    assert neighbours(name) == {caller for caller, called in files.EDGES if called == name}


@pytest.mark.parametrize("name", ["worker", "worker-cuda"])
def test_a_worker_reaches_mlflow_and_prefect_alone(name: str) -> None:
    servers = {called for _, called in files.EDGES}
    assert neighbours(name) & servers == {"mlflow", "prefect"}


def test_who_must_talk_can() -> None:
    assert all(called in neighbours(caller) for caller, called in files.EDGES)


def test_no_network_but_that_of_the_published_ports_leads_out() -> None:
    networks = dict(TREE["networks"])
    pages = networks.pop("pages")
    assert all(one == {"internal": True} for one in networks.values())
    assert {name for name, one in SERVICES.items() if "pages" in one["networks"]} == set(PUBLISHED)
    assert set(pages["driver_opts"].values()) == {"false"}


def test_files_on_their_way_through_mlflow_lie_on_disk_and_not_in_memory() -> None:
    assert SERVICES["mlflow"]["tmpfs"] == [] and "mlflow-tmp:/tmp" in SERVICES["mlflow"]["volumes"]
