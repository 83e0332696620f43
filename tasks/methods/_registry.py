"""Find the methods, and read the settings of one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tasks.foundation.discovery import discover
from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method


def all_methods() -> tuple[type[Method], ...]:
    """Every method, sorted by the name of its file."""
    return discover("tasks.methods", Method)


def kind_of(method: type[Method]) -> str:
    """The one value that `kind` takes for this method."""
    return str(method.model_fields["kind"].default)


def parse_method(settings: Mapping[str, Any]) -> Method:
    """The method that `kind` names, with its settings checked.

    Raises:
        ConfigError: unknown kind, unknown setting or wrong value, each with what is allowed.
    """
    known = {kind_of(method): method for method in all_methods()}
    kind = settings.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(
            f"unknown method {kind!r}" if kind is not None else "a method without `kind`",
            where="methods.kind",
            allowed=", ".join(known),
            fix=_did_you_mean(str(kind), list(known)),
        )
    try:
        return known[kind].model_validate(dict(settings))
    except ValidationError as error:
        raise _as_config_error(known[kind], error) from error


def method_code(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The modules whose code decides what this method does, sorted."""
    return tuple(sorted(set(parse_method(settings).code())))


def _as_config_error(method: type[Method], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    kind, key = kind_of(method), ".".join(str(part) for part in first["loc"])
    where = f"methods[{kind}].{key}" if key else f"methods[{kind}]"
    if first["type"] == "extra_forbidden":
        fields = sorted(method.model_fields)
        return ConfigError(
            f"unknown setting {key}", where=where, allowed=", ".join(fields), fix=_did_you_mean(key, fields)
        )
    message = str(first["msg"]).removeprefix("Value error, ")
    return ConfigError(f"{message} (got {first['input']!r})" if key else message, where=where)


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}?" if close else ""
