"""Secrets of the stack: generated at the first start, kept in files that only the owner can read."""

from __future__ import annotations

import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from tasks.artifacts import write_durably
from tasks.foundation.errors import ConfigError
from tasks.services.catalogue import SECRETS

PREFIX = "TUNELINE_SECRET_"
"""`TUNELINE_SECRET_MLFLOW_ADMIN` and so on give secrets of one's own at the first start."""

_LEAST_CHARACTERS = 12
_LEAST_DIFFERENT = 6
_KNOWN = re.compile(r"passw|secret|changeme|letmein|welcome|qwert|12345|admin|mlflow|prefect|postgres|tuneline", re.I)
"""What everybody tries first."""
_PRINTABLE = re.compile(r"[!-~]+")
_USER = "admin"


def provide_secrets(folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Every secret by its name: from its file, else from the environment, else generated. The file is then written.

    Raises:
        ConfigError: one is weak, can be read by others, or the environment names another one than its file.
    """
    return {name: _provide(folder / name, environment.get(variable(name))) for name in SECRETS}


def read_secrets(folder: Path) -> dict[str, str]:
    """Every secret of a stack that was started before.

    Raises:
        ConfigError: one is missing, weak, or can be read by others.
    """
    return {name: _read(folder / name) for name in SECRETS}


def variable(name: str) -> str:
    """The variable that may give a secret."""
    return PREFIX + name.upper().replace("-", "_")


def masked(text: str, values: Mapping[str, str]) -> str:
    """The text without any of these secrets; of `user:password` also the password by itself."""
    for value in values.values():
        for part in (value, value.rpartition(":")[2]):
            text = text.replace(part, "***")
    return text


def _provide(file: Path, given: str | None) -> str:
    if file.exists():
        kept = _read(file)
        if given is not None and given != kept:
            fix = "Unset it, or change the password in the service first (docs/stack.md)"
            raise ConfigError(f"{variable(file.name)} is not what the stack was made with", where=str(file), fix=fix)
        return kept
    value = _generate(file.name) if given is None else _checked(given, file.name, variable(file.name))
    write_durably(file, value + "\n")
    return value


def _read(file: Path) -> str:
    try:
        others = stat.S_IMODE(file.stat().st_mode) & 0o077
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("this secret cannot be read", where=str(file), fix="Start the stack as its owner") from error
    if others:
        raise ConfigError("others can read this secret", where=str(file), fix=f"Change it, then chmod 600 {file}")
    return _checked(text.removesuffix("\n"), file.name, str(file))


def _generate(name: str) -> str:
    token = secrets.token_urlsafe(32)
    return f"{_USER}:{token}" if name == "prefect-auth" else token


def _checked(value: str, name: str, where: str) -> str:
    user, colon, password = value.partition(":") if name == "prefect-auth" else ("-", ":", value)
    problem = _weakness(password) if user and colon else "it has no user"
    if problem:
        raise ConfigError(
            f"{SECRETS[name]}: {problem}",
            where=where,
            allowed=f"{_LEAST_CHARACTERS} or more printable characters that nobody guesses"
            + (", after user:" if name == "prefect-auth" else ""),
            fix="Leave it out, and a strong one is generated",
        )
    return value


def _weakness(password: str) -> str:
    """What is wrong with a password, never the password itself; empty where nothing is."""
    if not password:
        return "it is empty"
    if not _PRINTABLE.fullmatch(password):
        return "it has spaces or characters that not every client sends alike"
    if len(password) < _LEAST_CHARACTERS or len(set(password)) < _LEAST_DIFFERENT:
        return "it is too short or too even"
    known = _KNOWN.search(password)
    if known and len(password) - len(known.group()) < _LEAST_CHARACTERS:
        return "it is one of those that everybody tries"
    return ""
