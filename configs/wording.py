"""How keys and values look in messages: short, on one line, without control characters."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

_LONGEST_VALUE = 60
_PLAIN_KEY = re.compile(r"[\w-]+\Z", re.ASCII)


def key_text(path: Sequence[str | int]) -> str:
    """`methods[2].r` for ("methods", 2, "r"); keys with unusual characters are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _PLAIN_KEY.match(part) else shown(part))
    return text


def shown(value: Any) -> str:
    """A value as JSON on one line, cut to 60 characters; containers are named, not printed."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "an empty list" if not value else f"a list of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}…"
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or an empty string."""
    by_folded = {_folded(name): name for name in known}
    close = difflib.get_close_matches(_folded(word)[:100], by_folded, n=1, cutoff=0.65)
    return by_folded[close[0]] if close else ""


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")


def listed(words: Iterable[str], most: int = 24) -> str:
    """`a, b, c`; a long list is cut."""
    every = list(words)
    return ", ".join(every[:most]) + (f", … ({len(every)} in all)" if len(every) > most else "")
