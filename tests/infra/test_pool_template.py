"""The template from which Prefect's Kubernetes worker makes a Job for every run."""

from __future__ import annotations

import asyncio
import json
import re
from copy import deepcopy
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from tests.infra import files

TEMPLATE = files.job_template()
NOBODY = "http://127.0.0.1:9/api"
"""The template names no block and no variable of Prefect's, so that nobody is asked."""


def configured(values: dict[str, Any]) -> Any:
    """What the worker makes of the template and a deployment's job variables."""
    workers = pytest.importorskip("prefect_kubernetes.worker", reason="prefect-kubernetes is not installed")
    known = {"name": "a-run", "command": "prefect flow-run execute"}
    made = workers.KubernetesWorkerJobConfiguration.from_template_and_values(
        base_job_template=deepcopy(TEMPLATE), values=known | values, client=PrefectClient(NOBODY)
    )
    return asyncio.run(made)


def job_of(values: dict[str, Any]) -> dict[str, Any]:
    configuration = configured(values)
    configuration.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="a run"))
    job: dict[str, Any] = configuration.job_manifest
    return job


def test_every_variable_is_used_and_every_name_used_is_a_variable() -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(TEMPLATE["job_configuration"])))
    assert used == set(TEMPLATE["variables"]["properties"])


def test_prefect_makes_a_valid_job_of_it() -> None:
    job = job_of({})
    pod = job["spec"]["template"]["spec"]
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)  # Prefect wants them there; no schema knows them
    job["metadata"]["name"] = "made-by-generate-name"
    kubernetes_validate.validate(job, "1.33", strict=True)


@pytest.mark.parametrize("accelerators", [0, 1, 8])
def test_one_pod_gets_as_many_accelerators_as_the_run_asks_for(accelerators: int) -> None:
    spec = job_of({"accelerators": accelerators})["spec"]
    assert spec.get("parallelism", 1) == 1
    [container] = spec["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == accelerators
    assert container["resources"]["requests"]["nvidia.com/gpu"] == accelerators


def test_what_a_deployment_adds_to_the_environment_leaves_the_rest() -> None:
    [container] = job_of({"env": {"MINE": "1"}})["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert told["MINE"] == "1"
    assert told["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_the_pod_is_found_by_the_network_policies() -> None:
    labels = job_of({"labels": {"team": "a"}})["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "run"
