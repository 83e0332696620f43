"""Where the stack keeps things: one folder, readable by its owner alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from tasks.artifacts import write_durably
from tasks.foundation.errors import ConfigError
from tasks.foundation.values import Value
from tasks.services.catalogue import Address, Place, Service, services

FOLDER = "TUNELINE_STACK"
"""Names the folder; `stack` in the working directory, when absent."""


class Ports(Value):
    """Ports that the user has chosen; what is absent stays as it is."""

    postgres: int | None = None
    mlflow: int | None = None
    prefect: int | None = None


class Stack(Value):
    """The services of one folder."""

    folder: Path
    place: Place

    @property
    def services(self) -> tuple[Service, ...]:
        """All of them, in the order in which they start."""
        return services(self.place)

    @property
    def lock(self) -> Path:
        """Held by whoever starts or stops services."""
        return self.folder / ".lock"

    @property
    def secrets(self) -> Path:
        """A file for each."""
        return self.folder / "secrets"

    @property
    def environment_file(self) -> Path:
        """What a shell needs to use the stack; it holds passwords."""
        return self.folder / "env"

    @property
    def postgres_folder(self) -> Path:
        """Belongs to the user that Postgres runs as."""
        return self.folder / "postgres"

    def log(self, service: str) -> Path:
        """What a service prints."""
        return self.folder / "logs" / f"{service}.log"

    def record(self, service: str) -> Path:
        """Which process a service is."""
        return self.folder / "processes" / f"{service}.json"

    def token(self, service: str) -> str:
        """What tells all processes of a service, however deep: it stands in their environment."""
        return f"{self.folder}:{service}"


def stack_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the stack that is meant here."""
    return Path(environment.get(FOLDER) or "stack").absolute()


def find_stack(folder: Path) -> Stack | None:
    """The stack of a folder; None where nothing was ever started.

    Raises:
        ConfigError: its file was damaged.
    """
    file = folder / "stack.json"
    try:
        return Stack(folder=folder, place=Place.model_validate_json(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValidationError, NotADirectoryError) as error:
        fix = "Delete it and name the ports again: nothing else is in it"
        raise ConfigError("this does not describe a stack", where=str(file), fix=fix) from error


def place_of(folder: Path, ports: Ports, runs: Path) -> Place:
    """Where services are to listen: as chosen now, else as the last time, else the defaults.

    Raises:
        ConfigError: two services would share a port, or one is none.
    """
    known = find_stack(folder)
    before = known.place if known else Place(folder=str(folder))
    chosen: dict[str, Address] = {}
    for name, address in (("postgres", before.postgres), ("mlflow", before.mlflow), ("prefect", before.prefect)):
        port = getattr(ports, name) or address.port
        if not 0 < port < 65536:
            raise ConfigError(f"{port} is no port", where=f"--{name}-port", allowed="1 to 65535", fix="Choose another")
        if port in (other.port for other in chosen.values()):
            raise ConfigError(f"port {port} is named twice", where=f"--{name}-port", fix="Choose another")
        chosen[name] = Address(port=port)
    return before.model_copy(update={**chosen, "folder": str(folder), "runs": str(runs)})


def make_folders(stack: Stack) -> None:
    """Everything that services expect to be there, for the owner alone."""
    for folder in (
        stack.folder,
        stack.secrets,
        stack.log("").parent,
        stack.record("").parent,
        *(stack.folder / service.name for service in stack.services),
    ):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_durably(stack.folder / "stack.json", stack.place.model_dump_json(indent=2))


def base_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What a server gets of ours: no password of anything else."""
    return {name: value for name, value in environment.items() if name in _NEUTRAL}


_NEUTRAL = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    | {"PYTHONPATH", "PYTHONUSERBASE", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)


def working_folder(stack: Stack, service: Service) -> Path:
    """The worker runs flows where `up` was called; a server has a folder of its own."""
    return Path.cwd() if service.name == "worker" else stack.folder / service.name


def is_root() -> bool:
    """Whether this process may become another user."""
    return os.geteuid() == 0
