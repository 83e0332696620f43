"""The files of a registered version, fetched and held against what the registry says of them."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from tasks.foundation.digests import digest_value
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.registry.intact import FOLDER, check_intact, drop_caches, listed_in
from tasks.registry.registered import RegisteredModel, Version
from tasks.registry.server import FILES_TAG, PACKAGE_TAG

_WEIGHTS = frozenset({f"{FOLDER}/adapter", f"{FOLDER}/model"})


class Delivered(Value):
    """All files of a version, verified."""

    folder: Path
    weights_digest: str
    """sha256 over names and sha256 of the safetensors files that training or merging left."""


def deliver(model: RegisteredModel, version: Version, target: Path) -> Delivered:
    """Fetch all files of a version and hold each against its sha256, which the version's tags vouch for.

    Raises:
        IntegrityError: a file is missing, was changed, or was put there since; or no tag vouches for them.
    """
    if not {FILES_TAG, PACKAGE_TAG} <= version.tags.keys():
        what = f"{version.name} version {version.version} names no digest of its files, so nothing vouches for them"
        raise IntegrityError(what, where=version.source, fix="Run its experiment again: it is registered anew")
    folder = model.fetch(version, "", target)
    drop_caches(folder)
    check_intact(folder, version.tags[PACKAGE_TAG], version.tags[FILES_TAG])
    trained = {
        PurePosixPath(name).name: digest
        for name, digest in listed_in(folder).items()
        if name.endswith(".safetensors") and PurePosixPath(name).parent.as_posix() in _WEIGHTS
    }
    return Delivered(folder=folder, weights_digest=digest_value(trained))
