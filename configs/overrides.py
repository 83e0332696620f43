"""`key=value` on the command line: dotted keys into an experiment, values as YAML. In Prefect's form: a JSON object."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from configs.document import Document, KeyPath, read_value
from configs.wording import key_text, listed, shown
from tasks.foundation.errors import ConfigError

_PART = re.compile(r"[^.\[\]]+|\[\d+\]")
_KEY = re.compile(r"(?:[^.\[\]]+|\[\d+\])(?:\.[^.\[\]]+|\[\d+\])*")
_MAX_PARTS = 10


class Override(NamedTuple):
    """One parsed override."""

    text: str
    parts: tuple[str, ...]
    value: Any

    @property
    def origin(self) -> str:
        return f"override {shown(self.text)[1:-1]}"


def apply_overrides(document: Document, texts: Sequence[str]) -> Document:
    """The document with each override in turn.

    Entries of a list are named by position (`methods.1.r`, `methods[1].r`), methods also by label or kind
    (`methods.lora.r`).

    Raises:
        ConfigError: no `=`, a broken key or value, or a place that does not exist; with the places that do.
    """
    data = copy.deepcopy(document.data)
    origins = dict(document.origins)
    for text in texts:
        override = _parse(text)
        path = _set(data, override)
        for known in [known for known in origins if known[: len(path)] == path]:
            del origins[known]
        for length in range(1, len(path) + 1):
            origins.setdefault(path[:length], override.origin)
    return Document(document.file, data, origins)


def override_texts(fields: Mapping[str, Any]) -> list[str]:
    """The `key=value` of each entry of a JSON object, so that form and command line have one meaning and one check.

    `{"training.max_steps": 100}` and `{"training": {"max_steps": 100}}` say the same. A text is read as on the command
    line, so `"100"` is the number as well.

    Raises:
        ConfigError: a key holds `=`.
    """
    return [f"{key}={_text_of(value)}" for key, value in _flat(fields)]


def override_fields(texts: Sequence[str]) -> dict[str, str]:
    """What `override_texts` makes these texts of again; of one key the last one, at the last one's place."""
    fields: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        fields.pop(key, None)
        fields[key] = value
    return fields


def _flat(fields: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        key = f"{section}{name}"
        if "=" in name:
            raise ConfigError(f"the key {shown(key)} holds '='", where="overrides", fix='Write {"key": value}')
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{key}.")
        else:
            yield key, value


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parse(text: str) -> Override:
    origin = f"override {shown(text)[1:-1]}"
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key):
        raise ConfigError(
            "not key=value", where=origin, allowed="for example training.max_steps=100 or methods.lora.r=8"
        )
    parts = tuple(part.strip("[]") for part in _PART.findall(key))
    if len(parts) > _MAX_PARTS:
        raise ConfigError(f"the key has {len(parts)} parts", where=origin, allowed=f"at most {_MAX_PARTS}")
    return Override(text, parts, read_value(value, origin))


def _set(data: dict[str, Any], override: Override) -> KeyPath:
    """Put the value at its place; sections that the file leaves out come into being."""
    place: Any = data
    path: KeyPath = ()
    for part in override.parts[:-1]:
        key = _key(place, part, path, override)
        if isinstance(place, dict) and place.get(key) is None:
            place[key] = {}
        place, path = place[key], (*path, key)
    last = _key(place, override.parts[-1], path, override)
    place[last] = override.value
    return (*path, last)


def _key(place: Any, part: str, path: KeyPath, override: Override) -> str | int:
    if isinstance(place, dict):
        return part
    if isinstance(place, list):
        return _position(place, part, path, override)
    what = f"{key_text(path)} is {shown(place)}, it has no {shown(part)} inside"
    raise ConfigError(what, where=override.origin, fix=f"Set {key_text(path)} as a whole")


def _position(entries: list[Any], part: str, path: KeyPath, override: Override) -> int:
    if part.isdecimal() and part.isascii() and len(part) < 6 and int(part) < len(entries):
        return int(part)
    found = _named(entries, part, "name") or _named(entries, part, "kind")
    if len(found) == 1:
        return found[0]
    places = [f"{index} ({_label(entry)})" if _label(entry) else str(index) for index, entry in enumerate(entries)]
    problem = f"stands for several entries ({listed(map(str, found))})" if found else "is not there"
    what = f"{key_text(path)}: {shown(part)} {problem}"
    raise ConfigError(
        what, where=override.origin, allowed=listed(places) or "no entries", fix="Name it by its position"
    )


def _named(entries: list[Any], name: str, key: str) -> list[int]:
    return [index for index, entry in enumerate(entries) if isinstance(entry, dict) and entry.get(key) == name]


def _label(entry: Any) -> str:
    label = (entry.get("name") or entry.get("kind")) if isinstance(entry, dict) else None
    return label if isinstance(label, str) and label.isprintable() else ""
