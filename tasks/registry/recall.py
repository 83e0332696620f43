"""A registration that was made before is found without packaging: the request's digest leads to the package's."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.artifacts import ArtifactStore
from tasks.foundation.digests import code_digest, digest_value, library_versions
from tasks.registry.recording import attach_record
from tasks.registry.server import Registry
from tasks.registry.values import RegisteredVersion, RegisterRequest
from tasks.tracking import TrackingSettings

_STEP = "register"
_FILE = "package.json"
_UNDECISIVE = {"run_id", "prefect_url", "comparison", "metrics", "code_commit", "label", "sources", "record"}
"""What a request says beside what is packaged."""


def recall(request: RegisterRequest, tracking: TrackingSettings, store: ArtifactStore) -> RegisteredVersion | None:
    """The version that an equal request made, with the alias on it; None where the package has to be made.

    Raises:
        DependencyError: the server does not answer.
    """
    known = store.find(_STEP, request_key(request))
    if known is None:
        return None
    digest = json.loads((known.path / _FILE).read_text(encoding="utf-8"))["digest"]
    registry = Registry(tracking)
    found = registry.find(request.model_name, digest)
    if found is None:
        return None
    attach_record(request, registry, found, digest)
    registry.point(request.model_name, request.alias, found.version)
    return RegisteredVersion(
        name=request.model_name,
        version=found.version,
        alias=request.alias,
        uri=f"models:/{request.model_name}/{found.version}",
        run_id=found.run_id,
        digest=digest,
        cached=True,
    )


def remember(request: RegisterRequest, version: RegisteredVersion, store: ArtifactStore) -> None:
    """Keep the package's digest under the request's."""

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"digest": version.digest}), encoding="utf-8")

    store.make(_STEP, request_key(request), write)


def request_key(request: RegisterRequest) -> str:
    """sha256 of everything that decides the package."""
    return digest_value(
        {
            "request": request.model_dump(mode="json", exclude=_UNDECISIVE),
            "code": code_digest("tasks.registry"),
            "libraries": library_versions("torch", "transformers", "peft", "mlflow"),
        }
    )
