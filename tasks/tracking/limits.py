"""What MLflow takes as a key or a value, and how ours are made to fit without losing anything.

Source: mlflow/utils/validation.py of MLflow 3.17 (the same numbers since 2.x).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from tasks.foundation.digests import digest_text
from tasks.tracking.redaction import redact

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_TAGS = 100
MAX_ENTITIES = 1000
MAX_BATCH_BYTES = 1_000_000
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
MAX_KEY_CHARS = 250
MAX_DATASET_DIGEST_CHARS = 36

_FORBIDDEN = re.compile(r"[^/\w.\- ]")
_SUFFIX_CHARS = 8


def storable(text: str) -> str:
    """The text without passwords, and with what no database takes (lone surrogates, NUL) spelled out."""
    return redact(text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00"))


def safe_key(key: str) -> str:
    """A name that MLflow takes. One that had to change ends in a digest of the original: two never become one."""
    clean = posixpath.normpath(_FORBIDDEN.sub("_", storable(key)).strip("/ ") or "_")
    clean = "/".join("_" if part in (".", "..") else part for part in clean.split("/"))
    if clean == key and len(key) <= MAX_KEY_CHARS:
        return key
    return f"{clean[: MAX_KEY_CHARS - _SUFFIX_CHARS - 1]}-{digest_text(key)[:_SUFFIX_CHARS]}"


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as flat params: `{"method": {"r": 8}}` becomes `{"method.r": "8"}`; lists become JSON."""
    return {safe_key(key): storable(value) for key, value in _leaves("", settings)}


def _leaves(prefix: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{prefix}{key}"
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        if isinstance(plain, Mapping) and plain:
            yield from _leaves(f"{name}.", plain)
        else:
            yield name, _text(plain)


def _text(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def cut(text: str, limit: int, full_text: str) -> str:
    """The beginning of a text that is too long, ending in the name of the artifact that has all of it."""
    end = f"… (all {len(text)} characters: {full_text})"
    return text[: limit - len(end)] + end
