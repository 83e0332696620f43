"""One version of a registered model, by name and alias or number: found, fetched, verified. For what serves it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.foundation.errors import ConfigError, IntegrityError, ModelError
from tasks.foundation.values import Value
from tasks.models import ModelSettings, resolve_base
from tasks.models import fetch as fetch_from_hub
from tasks.registry.intact import FOLDER, SERVING, check_intact, drop_caches, read_description
from tasks.registry.server import FILES_TAG, PACKAGE_TAG
from tasks.tracking import redact

if TYPE_CHECKING:
    from tasks.tracking.lookup import KnownVersion, Lookup

REFERENCES = "NAME, NAME@ALIAS or NAME:VERSION"
_REFERENCE = re.compile(r"(?P<name>[^/@:]{1,256})(?:@(?P<alias>[\w-]{1,255})|:(?P<version>\d{1,9}))?")
"""MLflow's own rules for names and aliases."""


class Wanted(Value):
    """A version as a person names it: by alias or by number."""

    name: str
    alias: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.version}" if self.version else f"{self.name}@{self.alias}"


class FetchedModel(Value):
    """MLflow's folder of a model on this machine, held against its digests."""

    folder: Path
    digest: str
    """sha256 over everything that serves."""
    method: str
    """Kind of the method that made it."""
    holds: str
    """`adapter` or `model`."""


def parse_wanted(text: str, default_alias: str) -> Wanted:
    """Understand `NAME[@ALIAS|:VERSION]`.

    Raises:
        ConfigError: it is none of these.
    """
    found = _REFERENCE.fullmatch(text)
    if found is None or not text.isprintable() or not found["name"].strip():
        raise ConfigError(f"{text!r} names no registered model", where="MODEL", allowed=REFERENCES, fix="Write one")
    alias = found["alias"] or ("" if found["version"] else default_alias)
    return Wanted(name=found["name"], alias=alias, version=found["version"] or "")


def find_version(lookup: Lookup, wanted: Wanted) -> KnownVersion:
    """The one version that is meant now, whatever the alias does later.

    Raises:
        ConfigError: no such model, alias or version, or tuneline did not register it.
        DependencyError: MLflow does not answer.
    """
    where = redact(lookup.uri)
    version = lookup.version(wanted.name, wanted.version, wanted.alias)
    if version is None:
        raise _missing(wanted, lookup.aliases(wanted.name), where)
    if PACKAGE_TAG not in version.tags or not version.source.startswith("runs:/"):
        what = f"{wanted} was not registered by tuneline, so nothing says what its files should be"
        raise ConfigError(what, where=where, fix="Serve it with mlflow models serve")
    return version


def _missing(wanted: Wanted, aliases: dict[str, int] | None, where: str) -> ConfigError:
    if aliases is None:
        fix = "MLflow's page of models has the names; one is made by registry.model of an experiment"
        return ConfigError(f"there is no registered model {wanted.name}", where=where, fix=fix)
    standing = ", ".join(f"{alias} (version {version})" for alias, version in aliases.items()) or "none"
    if wanted.version:
        fix = "MLflow's page of models has the versions"
        return ConfigError(f"{wanted.name} has no version {wanted.version}", where=where, fix=fix)
    fix = f"Promote a version, or name one: {wanted.name}:VERSION"
    return ConfigError(f"{wanted.name} has no alias {wanted.alias}. Aliases: {standing}", where=where, fix=fix)


def fetch_version(lookup: Lookup, version: KnownVersion, target: Path) -> FetchedModel:
    """Copy the files of a version below `target` and verify the copy; what happens to the originals is no matter then.

    Raises:
        ModelError: its files are gone.
        IntegrityError: they are not what was registered.
        DependencyError: MLflow does not answer.
    """
    run_id, _, path = version.source.removeprefix("runs:/").partition("/")
    folder = lookup.download(run_id, path, target)
    if folder is None:
        raise ModelError(
            f"the files of {version.name} version {version.version} are gone",
            where=redact(lookup.uri),
            fix="Run its experiment again: the version is packaged anew",
        )
    drop_caches(folder)
    return verified(folder, version.tags[PACKAGE_TAG], version.tags.get(FILES_TAG, ""))


def verified(folder: Path, expected: str = "", listing: str = "") -> FetchedModel:
    """The model in a folder, verified, with the base that it takes from the hub in the hub's cache.

    Raises:
        ModelError: there is no folder, or the hub does not show the base.
        IntegrityError: it, or its base, is not what was registered.
        DependencyError: the hub cannot be reached, and its cache has no such base.
    """
    if not folder.is_dir():
        fix = f"Name the folder of a downloaded version, or write {REFERENCES}"
        raise ModelError(f"{folder} is no folder", where="MODEL", fix=fix)
    digest = check_intact(folder, expected, listing)
    serving = json.loads((folder / FOLDER / SERVING).read_text(encoding="utf-8"))
    if serving["base"]["hub"]:
        _fetch_base(ModelSettings(name_or_path=serving["base"]["hub"], revision=serving["base"]["revision"]), folder)
    holds = "adapter" if serving["adapter"] else "model"
    return FetchedModel(folder=folder, digest=digest, method=str(serving["method"]), holds=holds)


def _fetch_base(base: ModelSettings, folder: Path) -> None:
    found = resolve_base(base, fetch_from_hub(base)).digest
    expected = read_description(folder)["metadata"]["tuneline.base_digest"]
    if found != expected:
        what = f"the base {base.name_or_path} has the digest {found}, not {expected} as in training"
        raise IntegrityError(what, where="hub", fix="Remove it from the hub's cache; it is downloaded again")
