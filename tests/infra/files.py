"""The container files as plain values, and the services that they must agree with."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tasks.services.catalogue import Address, Place, Service, services

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "infra" / "images"
COMPOSE = ROOT / "infra" / "compose"
TEAM = ROOT / "infra" / "kubernetes" / "team"

EDGES = {
    ("mlflow", "postgres"),
    ("mlflow", "object-store"),
    ("prefect", "postgres"),
    ("migrate", "postgres"),
    ("backup", "postgres"),
    ("backup", "object-store"),
    ("restore", "postgres"),
    ("restore", "object-store"),
    ("bucket", "object-store"),
    ("users", "mlflow"),
    ("worker", "mlflow"),
    ("worker", "prefect"),
    ("worker-cuda", "mlflow"),
    ("worker-cuda", "prefect"),
}
"""Who calls whom. Kubernetes allows nothing else; in compose, clients of one server also share its network."""

_INSIDE: dict[str, Any] = {
    "folder": "/var/lib/tuneline",
    "postgres": Address(host="postgres", port=5432),
    "mlflow": Address(host="mlflow", port=5000),
    "prefect": Address(host="prefect", port=4200),
    "bind": "0.0.0.0",  # noqa: S104  (a container's own network)
    "artifacts": "s3://mlflow/artifacts",
    "mlflow_processes": 4,
    "runs": "/runs",
}
COMPOSE_PLACE = Place(mlflow_origin="http://localhost:5000", prefect_origin="http://localhost:4200", **_INSIDE)
CLUSTER_PLACE = Place(mlflow_origin="https://mlflow.example", prefect_origin="https://prefect.example", **_INSIDE)

Tree = dict[str, Any]


def expected(place: Place) -> dict[str, Service]:
    """The services of `tuneline stack`, at another place."""
    return {service.name: service for service in services(place)}


def tool(name: str) -> str | None:
    """A program of the development dependencies, or of the system."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def compose() -> Tree:
    """compose.yaml with the defaults of its variables."""
    text = (COMPOSE / "compose.yaml").read_text(encoding="utf-8")
    tree: Tree = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text))
    return tree


def cluster() -> list[Tree]:
    """Every object of the manifests."""
    return [one for path in manifest_files() for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def manifest_files() -> list[Path]:
    return sorted(path for path in TEAM.glob("*.yaml") if path.name != "kustomization.yaml")


def job_template() -> Tree:
    template: Tree = json.loads((TEAM / "job-template.json").read_text(encoding="utf-8"))
    return template


def pods() -> Iterator[tuple[str, Tree]]:
    """The name and the specification of every pod, those of runs included."""
    for one in cluster():
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield spec["template"]["metadata"]["labels"]["app.kubernetes.io/name"], spec["template"]["spec"]
    job = job_template()["job_configuration"]["job_manifest"]["spec"]["template"]
    yield job["metadata"]["labels"]["app.kubernetes.io/name"], job["spec"]


def containers(pod: Tree) -> list[Tree]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def variables(container: Tree) -> dict[str, str]:
    """What a container's program sees, with the site's values put in as Kubernetes does it."""
    lines = (TEAM / "site.env").read_text(encoding="utf-8").split()
    site = dict(line.split("=", 1) for line in lines)
    seen: dict[str, str] = {}
    for one in container.get("env", []):
        reference = one.get("valueFrom", {}).get("configMapKeyRef")
        text = site[reference["key"]] if reference else one["value"]
        seen[one["name"]] = re.sub(r"\$\((\w+)\)", lambda match: seen[match[1]], text)
    return seen


def mounted_secrets(pod: Tree, container: Tree) -> dict[str, str]:
    """File below the folder of secrets -> key of the Secret."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounted = [volumes[mount["name"]] for mount in container["volumeMounts"]]
    items = [item for volume in mounted for item in volume.get("secret", {}).get("items", [])]
    return {item["path"]: item["key"] for item in items}
