"""An earlier result by its name in the model registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts import ArtifactStore
from tasks.foundation.digests import digest_file, digest_value
from tasks.foundation.errors import ConfigError, IntegrityError, ModelError
from tasks.registry.server import FILES, PACKAGE_TAG
from tasks.sources.reference import Reference
from tasks.sources.runs import STEP
from tasks.training.recipe import Recipe, write_down

if TYPE_CHECKING:
    from tasks.tracking.lookup import KnownVersion, Lookup

SERVING = "serving.json"
_PACKAGE = "artifacts/package"
_LAYOUT = 2
"""Of the artifact: `serving.json` lies beside the weights since."""


def version_folder(reference: Reference, lookup: Lookup, store: ArtifactStore) -> tuple[Path, KnownVersion]:
    """The packaged adapter or model of a registered version, fetched into the store and held against its digests.

    Raises:
        ConfigError: there is no such version, or tuneline did not register it.
        ModelError: its files are gone.
        IntegrityError: they were changed.
    """
    version = lookup.version(reference.name, reference.version, reference.alias)
    if version is None:
        what = f"the registry has no {reference.text}"
        raise ConfigError(what, where=reference.where, fix="Look at MLflow's page of models for names and versions")
    run_id, _, folder = version.source.removeprefix("runs:/").partition("/")
    if PACKAGE_TAG not in version.tags or not version.source.startswith("runs:/"):
        what = f"{reference.text} was not registered by tuneline, so its layout is not known"
        raise ConfigError(what, where=reference.where, fix="Download it and name the folder with its weights")

    def fetch(staging: Path) -> None:
        down = staging / ".down"
        package = lookup.download(run_id, folder, down)
        if package is None:
            raise ModelError(
                f"the files of {reference.text} are gone",
                where=reference.where,
                fix="Run its experiment again: the version is packaged anew",
            )
        _unpack(package, staging, version)
        shutil.rmtree(down)

    artifact = store.make(STEP, digest_value({"package": version.tags[PACKAGE_TAG], "layout": _LAYOUT}), fetch)
    return artifact.path, version


def _unpack(package: Path, staging: Path, version: KnownVersion) -> None:
    """Keep `adapter/` or `model/` with its recipe; the base that a package brings along is left."""
    described = _checked(package, f"{_PACKAGE}/{SERVING}")
    serving: dict[str, Any] = json.loads(described.read_text(encoding="utf-8"))
    name = "adapter" if serving["adapter"] else "model"
    for path in sorted((package / _PACKAGE / name).rglob("*")):
        if path.is_file():
            _checked(package, path.relative_to(package).as_posix())
    (package / _PACKAGE / name).rename(staging / name)
    described.rename(staging / SERVING)
    write_down(
        Recipe(method=serving.get("settings"), base_digest=version.tags.get("tuneline.base_digest", "")), staging
    )


def _checked(package: Path, name: str) -> Path:
    """A file of the package that is what `files.json` says.

    Raises:
        IntegrityError: it is missing, or another.
    """
    known: dict[str, str] = json.loads((package / FILES).read_text(encoding="utf-8"))
    if not (package / name).is_file() or digest_file(package / name) != known.get(name):
        raise IntegrityError(f"{name} of the registered version is missing or was changed", fix="Name another version")
    return package / name
