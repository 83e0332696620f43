"""The table of services: what stands in it, and what never does."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError
from tasks.services.catalogue import DATABASES, ROLES, SECRETS, Address, Place, mlflow_auth_file, services
from tasks.services.layout import Ports, Stack, base_environment, find_stack, make_folders, place_of

PLACE = Place(folder="/srv/stack")
TEAM = Place(
    folder="/srv",
    bind="0.0.0.0",  # noqa: S104
    postgres=Address(host="database", port=5432),
    mlflow=Address(host="mlflow", port=5000),
    mlflow_origin="https://mlflow.example/",
    prefect_origin="https://prefect.example",
    artifacts="s3://bucket/artifacts",
)


def test_services_start_after_those_that_they_need() -> None:
    seen: set[str] = set()
    for service in services(PLACE):
        assert seen.issuperset(service.needs)
        seen.add(service.name)


def test_every_secret_has_a_use_and_every_use_a_secret() -> None:
    used = {name for service in services(PLACE) for name in service.secrets.values()} | set(ROLES.values())

    assert used | {"postgres"} == set(SECRETS)
    assert set(DATABASES.values()) == set(ROLES)


def test_no_setting_and_no_command_has_a_place_for_a_password() -> None:
    for service in services(PLACE):
        assert service.settings.keys().isdisjoint(service.secrets)
        for text in (*service.command, *service.settings.values()):
            assert "://" not in text or ":" not in text.partition("://")[2].partition("@")[0] or "@" not in text
    assert "password" not in mlflow_auth_file(PLACE).replace("admin_password", "password").lower()


def test_servers_listen_on_the_loopback_address_unless_told_otherwise() -> None:
    for service in services(PLACE):
        assert service.address is None or service.address.host == "127.0.0.1"
        assert "0.0.0.0" not in " ".join(service.command)  # noqa: S104


def test_the_names_under_which_others_know_a_server_are_the_only_ones_that_it_takes() -> None:
    mlflow = next(service for service in services(TEAM) if service.name == "mlflow")
    prefect = next(service for service in services(TEAM) if service.name == "prefect")

    assert mlflow.settings["MLFLOW_SERVER_ALLOWED_HOSTS"] == "mlflow:5000,mlflow.example"
    assert mlflow.settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "https://mlflow.example"
    assert prefect.settings["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "https://prefect.example"
    assert prefect.settings["PREFECT_SERVER_UI_API_URL"] == "https://prefect.example/api"
    assert mlflow.command[-1] == "s3://bucket/artifacts"


def test_mlflow_reads_its_users_from_postgres_and_lets_them_read() -> None:
    parsed = configparser.ConfigParser()
    parsed.read_string(mlflow_auth_file(TEAM))

    assert parsed["mlflow"]["database_uri"] == "postgresql+psycopg://mlflow@database:5432/mlflow_auth"
    assert parsed["mlflow"]["default_permission"] == "READ"


def test_ports_stay_those_of_the_last_start(tmp_path: Path) -> None:
    first = place_of(tmp_path, Ports(mlflow=5001), tmp_path / "runs")
    make_folders(Stack(folder=tmp_path, place=first))

    assert place_of(tmp_path, Ports(), tmp_path / "runs") == first
    assert place_of(tmp_path, Ports(prefect=4300), tmp_path / "runs").prefect.port == 4300
    assert first.mlflow.port == 5001


@pytest.mark.parametrize("ports", [Ports(mlflow=70000), Ports(mlflow=4200), Ports(prefect=15432)])
def test_a_port_that_is_none_or_named_twice_is_refused(tmp_path: Path, ports: Ports) -> None:
    with pytest.raises(ConfigError, match="port"):
        place_of(tmp_path, ports, tmp_path)


def test_a_damaged_description_of_a_stack_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "stack.json").write_text("{")

    with pytest.raises(ConfigError, match=r"stack\.json"):
        find_stack(tmp_path)


def test_a_server_gets_no_password_of_anything_else() -> None:
    ours = {"PATH": "/bin", "HF_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "MLFLOW_TRACKING_PASSWORD": "x"}

    assert base_environment(ours) == {"PATH": "/bin"}
