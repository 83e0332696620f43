"""One registered model: its versions, its aliases, and the files beside a version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.foundation.values import Value
from tasks.registry.server import Registry

CHAMPION = "champion"
"""The alias that production serves."""
PREVIOUS = "previous"
"""The alias of what the champion replaced."""


class Standing(Value):
    """Which version is in production, and which one was before; None where the alias does not stand."""

    champion: int | None
    previous: int | None


class Version(Value):
    """A version as it stands in the registry."""

    name: str
    version: int
    run_id: str
    source: str
    """`runs:/<run>/<folder>`: where its files lie."""
    tags: dict[str, str]

    @property
    def folder(self) -> str:
        """The folder of its files among the run's artifacts."""
        return self.source.removeprefix(f"runs:/{self.run_id}/")


class RegisteredModel:
    """The versions and aliases of one name."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.name = name
        self._registry = registry
        self._client = registry.client

    def standing(self) -> Standing:
        """Where the two aliases stand now.

        Raises:
            ConfigError: there is no such model.
        """
        aliases = self._aliases()
        return Standing(champion=aliases.get(CHAMPION), previous=aliases.get(PREVIOUS))

    def _aliases(self) -> dict[str, int]:
        with self._registry.calling(absent=self._unknown()):
            aliases: Mapping[str, Any] = self._client.get_registered_model(self.name).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def _unknown(self) -> ConfigError:
        fix = "Look at MLflow's page of models; a winner is registered where registry.model is set"
        return ConfigError(f"there is no registered model {self.name!r}", where="MODEL", fix=fix)

    def at(self, alias: str) -> Version:
        """The version at which an alias stands.

        Raises:
            ConfigError: there is no such model, or no such alias.
        """
        aliases = self._aliases()
        if alias not in aliases:
            raise ConfigError(
                f"{self.name} has no alias {alias!r}",
                where="--alias",
                allowed=", ".join(sorted(aliases)) or "none stands yet",
                fix="Name a version, or register one first",
            )
        return self._stored(aliases[alias])

    def version(self, number: int) -> Version:
        """The version of this number.

        Raises:
            ConfigError: there is no such model, or no such version.
            IntegrityError: tuneline did not register it, so nothing leads from it to its files.
        """
        self._aliases()  # a server with passwords does not say that there is no model when it is asked for a version
        return self._stored(number)

    def _stored(self, number: int) -> Version:
        what = f"{self.name} has no version {number}"
        absent = ConfigError(what, where="--version", fix="Look at MLflow's page of the model")
        with self._registry.calling(absent=absent):
            found = self._client.get_model_version(self.name, str(number))
        run_id, source = found.run_id or "", found.source or ""
        if not run_id or not source.startswith(f"runs:/{run_id}/"):
            what = f"{self.name} version {number} was not registered by tuneline"
            raise IntegrityError(what, where=source, fix="Register it by an experiment with registry.model")
        return Version(name=self.name, version=number, run_id=run_id, source=source, tags=dict(found.tags))

    def set_alias(self, alias: str, version: int | None) -> None:
        """Move an alias; None takes it away."""
        with self._registry.calling():
            if version is None:
                self._client.delete_registered_model_alias(self.name, alias)
            else:
                self._client.set_registered_model_alias(self.name, alias, str(version))

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with self._registry.calling():
            for key, value in tags.items():
                self._client.set_model_version_tag(self.name, str(version), key, value)

    def attach(self, version: Version, file: Path, folder: str) -> None:
        """Put a file beside the version's own, below `folder`, where its page shows it."""
        with self._registry.calling():
            self._client.log_artifact(version.run_id, str(file), f"{version.folder}/{folder}")

    def fetch(self, version: Version, path: str, target: Path) -> Path:
        """Copy a file, or with an empty path all files, of a version below `target`.

        Raises:
            IntegrityError: it is not there.
        """
        whole = f"{version.folder}/{path}".rstrip("/")
        what = f"{path or 'the files'} of {self.name} version {version.version} cannot be found"
        absent = IntegrityError(what, where=version.source, fix="Run its experiment again: it is packaged anew")
        target.mkdir(parents=True, exist_ok=True)
        with self._registry.calling(absent=absent):
            return Path(self._client.download_artifacts(version.run_id, whole, str(target)))
