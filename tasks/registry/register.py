"""Register the winner: package, prove, upload, version, alias. Killed and run again, it ends with one version."""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.artifacts.scratch import scratch_folder
from tasks.foundation.digests import digest_file
from tasks.foundation.faults import reach
from tasks.registry.card import description, public_name
from tasks.registry.contents import fill
from tasks.registry.intact import drop_caches
from tasks.registry.lineage import lineage_tags
from tasks.registry.package import Package, build, describe
from tasks.registry.proof import prove
from tasks.registry.recording import attach_record
from tasks.registry.server import FILES, FILES_TAG, PACKAGE_TAG, Registry, StoredVersion
from tasks.registry.values import RegisteredVersion, RegisterRequest
from tasks.tracking import TrackingSettings
from tasks.tracking.environment import set_mlflow_defaults

log = logging.getLogger(__name__)

_SCRATCH = ".register"


def register(request: RegisterRequest, tracking: TrackingSettings, artifact_root: Path) -> RegisteredVersion:
    """Make the candidate a version of the registered model and point the alias at it.

    A version that serves the same bytes is found by its digest and taken as it is. The order of the steps (upload,
    then a version with its tags in one transaction, then the alias) leaves at worst files that no version names.

    Args:
        artifact_root: folder for the scratch copy; on the disk of the weights, hard links make it free.

    Raises:
        ConfigError: the untuned base, or a name that MLflow refuses.
        DependencyError: the server does not answer; nothing is lost, the same call completes later.
        IntegrityError: files are missing, or the package does not answer as the evaluation saw.
        ResourceError: the package cannot be stored.
    """
    set_mlflow_defaults()
    registry = Registry(tracking)
    with scratch_folder(artifact_root / _SCRATCH) as scratch:
        folder = scratch / "package"
        folder.mkdir()
        fill(request, folder)
        package = describe(folder, request)
        found = registry.find(request.model_name, package.digest)
        stored = found or _publish(request, registry, package)
        attach_record(request, registry, stored, package.digest)
        reach("register.alias")
        registry.point(request.model_name, request.alias, stored.version)
        reach("register.done")
    log.info("registered %s version %d (%s)", request.model_name, stored.version, "found" if found else "new")
    return RegisteredVersion(
        name=request.model_name,
        version=stored.version,
        alias=request.alias,
        uri=f"models:/{request.model_name}/{stored.version}",
        run_id=stored.run_id,
        digest=package.digest,
        cached=found is not None,
    )


def _publish(request: RegisterRequest, registry: Registry, package: Package) -> StoredVersion:
    model = package.folder.with_name("model")
    tags = _tags(request, package)
    reach("register.package")
    build(request, package, model, tags)
    prove(model, request)
    drop_caches(model)  # Python's, of the code that was just proven
    reach("register.upload")
    source = registry.upload(request.run_id, model, f"model-{package.digest[:12]}")
    reach("register.version")
    files = {FILES_TAG: digest_file(model / FILES)}
    return registry.create(request.model_name, source, tags | files, description(request))


def _tags(request: RegisterRequest, package: Package) -> dict[str, str]:
    """What leads back from a version to everything that made it."""
    base = request.candidate.base
    tags = {
        PACKAGE_TAG: package.digest,
        "tuneline.weights_sha256": package.weights_digest,
        "tuneline.run_id": request.run_id,
        "tuneline.label": request.label,
        "tuneline.fingerprint": request.fingerprint,
        "tuneline.method": str(request.candidate.method.get("kind")),
        "tuneline.base": public_name(base),
        "tuneline.base_revision": base.revision,
        "tuneline.base_digest": base.digest,
        "tuneline.data_digest": request.data_digest,
        "tuneline.rows_digest": request.rows_digest,
        "tuneline.code_commit": request.code_commit,
        "tuneline.prefect": request.prefect_url,
    }
    tags |= lineage_tags(request.sources)
    return {name: value for name, value in tags.items() if value}
