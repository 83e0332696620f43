"""Keeps passwords out of journals, logs and error texts."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'\\]+@")
"""What stands between `://` and the last `@` before the path: a user, a password, or a token in either place."""


def redact(text: str) -> str:
    """The text with `***` for the user and password of every URI in it."""
    return _USERINFO.sub("***@", text)
