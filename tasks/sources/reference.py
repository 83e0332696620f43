"""A reference as the user writes it: what kind it is, and what can be known of it without asking anybody."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from tasks.embedded import EMBEDDED_MODEL, EMBEDDED_PREFIX
from tasks.foundation.errors import ConfigError
from tasks.foundation.values import Value
from tasks.methods import INIT_FROM, Method
from tasks.sources.folder import REFERENCES, look_into

_RUN = re.compile(r"[0-9a-f]{32}")
_REGISTERED = re.compile(r"models:/(?P<name>[^/@:]+)(?:/(?P<version>\d{1,9})|@(?P<alias>[\w-]+))")
_HUB = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
_BRANCH = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+@[\w.-]+")


class Reference(Value):
    """What the text means."""

    kind: Literal["run", "registered", "hub", "embedded", "folder"]
    text: str
    """As it was written."""
    where: str
    """The setting that holds it, for messages."""
    name: str = ""
    """Of a registered model or on the hub."""
    version: str = ""
    alias: str = ""
    revision: str = ""


def parse_reference(text: str, where: str) -> Reference:
    """Tell the kinds apart by their form alone; what has none of the others' is a folder.

    Raises:
        ConfigError: it begins like one kind and is none.
    """
    if _RUN.fullmatch(text):
        return Reference(kind="run", text=text, where=where)
    if text.startswith("models:"):
        return _registered(text, where)
    if text.startswith(EMBEDDED_PREFIX):
        return _embedded(text, where)
    if found := _HUB.fullmatch(text):
        return Reference(kind="hub", text=text, where=where, **found.groupdict())
    if text.startswith("runs:"):
        raise ConfigError(f"{text} is no reference", where=where, allowed=REFERENCES, fix="Write the run's id alone")
    if _BRANCH.fullmatch(text) and not Path(text).exists():
        fix = "Write the commit (the hub shows it under Files > History)"
        raise ConfigError(f"{text} names no commit: branches move", where=where, allowed="40 hex digits", fix=fix)
    if not text.strip():
        raise ConfigError("an empty reference", where=where, allowed=REFERENCES, fix="Name an earlier result")
    return Reference(kind="folder", text=text, where=where)


def _registered(text: str, where: str) -> Reference:
    found = _REGISTERED.fullmatch(text)
    if found is None:
        allowed = "models:/NAME/VERSION or models:/NAME@ALIAS"
        raise ConfigError(f"{text} names no registered version", where=where, allowed=allowed, fix="Write one of these")
    parts = {name: part or "" for name, part in found.groupdict().items()}
    return Reference(kind="registered", text=text, where=where, **parts)


def _embedded(text: str, where: str) -> Reference:
    known = f"{EMBEDDED_PREFIX}{EMBEDDED_MODEL}"
    if text != known:
        raise ConfigError(f"no embedded model {text!r}", where=where, allowed=known, fix=f"Write {known}")
    return Reference(kind="embedded", text=text, where=where)


def check_sources(method: Method) -> None:
    """What is wrong with a method's references, as far as files and their form tell it.

    Raises:
        ConfigError: a form that means nothing, or a method that trains nothing and is to go on from something.
        ModelError: a folder is missing, holds neither an adapter nor a model, or pickles.
    """
    for name, text in method.sources().items():
        where = f"methods[{method.label}].{name}"
        if name == INIT_FROM and method.holds == "nothing":
            fix = "Leave init_from out; model.name_or_path is the model that is measured untuned"
            raise ConfigError(f"{method.kind} trains nothing, so nothing goes on from {text}", where=where, fix=fix)
        if parse_reference(text, where).kind == "folder":
            look_into(Path(text).expanduser(), where)
