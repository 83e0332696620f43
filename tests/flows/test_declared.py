"""infra/prefect.yaml: nothing in it that Prefect would ignore, and every deployment has its flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import (
    ConcurrencyLimitSpec,
    DeploymentConfig,
    PrefectYamlModel,
    RawScheduleConfig,
    WorkPoolConfig,
)
from pydantic import BaseModel

from flows.declared import FILE, DeploymentEntry, read_declared
from tasks.foundation.errors import ConfigError

READERS: dict[str, type[BaseModel]] = {
    "": PrefectYamlModel,
    "deployments": DeploymentConfig,
    "deployments.work_pool": WorkPoolConfig,
    "deployments.concurrency_limit": ConcurrencyLimitSpec,
    "deployments.schedules": RawScheduleConfig,
}
"""Who reads what at a place; of places that are not here (parameters) every key counts."""


def unread(value: Any, place: str = "") -> list[str]:
    """Keys that Prefect would pass over."""
    if isinstance(value, list):
        return [key for part in value for key in unread(part, place)]
    if not isinstance(value, dict) or place not in READERS:
        return []
    inside = {name: f"{place}.{name}".lstrip(".") for name in value}
    found = [inside[name] for name in value if name not in READERS[place].model_fields]
    return found + [key for name, part in value.items() for key in unread(part, inside[name])]


def test_prefect_reads_every_key_of_the_file() -> None:
    assert unread(yaml.safe_load(FILE.read_text(encoding="utf-8"))) == []


def test_a_key_that_prefect_passes_over_is_found() -> None:
    entry = {"name": "x", "work_pool": {"name": "y", "queue": "z"}, "schedule_": 1, "parameters": {"any": 1}}
    assert unread({"deployments": [entry], "deploymentz": []}) == [
        "deploymentz",
        "deployments.schedule_",
        "deployments.work_pool.queue",
    ]


def test_the_deployments_are_those_that_the_documentation_names() -> None:
    names = [entry.name for entry in read_declared(FILE)]
    assert names == ["compare-methods", "fine-tune", "nightly", "promote", "rollback", "reconcile"]


@pytest.mark.parametrize("entry", read_declared(FILE), ids=lambda entry: entry.name)
def test_a_deployment_names_a_flow_that_has_its_parameters(entry: DeploymentEntry) -> None:
    flow = entry.flow()
    assert set(entry.parameters) <= set(flow.parameters.properties)
    for schedule in entry.schedules:
        assert set(schedule.parameters) <= set(flow.parameters.properties)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "deployments: [{name: a, entrypoint: b.c, work_pool: {name: d}, paramters: {}}]",
            r"deployments\.0\.paramters",
        ),
        ("deployments: [{name: a, work_pool: {name: d}}]", r"deployments\.0\.entrypoint: Field required"),
        ("deployments: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_declared(file)


def test_a_file_that_is_missing_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file or directory.*--file"):
        read_declared(tmp_path / "prefect.yaml")


def test_an_entrypoint_without_a_flow_is_named() -> None:
    (entry, *_) = read_declared(FILE)
    with pytest.raises(ConfigError, match=r"deployments\.compare-methods\.entrypoint: flows\.gone\.gone cannot"):
        entry.model_copy(update={"entrypoint": "flows.gone.gone"}).flow()
