"""Keeps passwords out of journals, logs and error texts."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"(?<=://)[^\s/?#\"'\\]+@")
"""What stands between `://` and the last `@` before the path: a user, a password, or a token in either place."""

_DATABASE_USERINFO = re.compile(r"((?:postgresql|mysql|mssql)(?:\+\w+)?://)[^\s:@\"'\\]*:[^\s@\"'\\]*@")
"""The same in a database's URI, whose password may hold `/`, `?` and `#`: SQLAlchemy reads it up to the `@`."""
_QUERY = re.compile(
    r"([?&][\w-]*(?:password|passwd|pwd|token|secret|credential|signature|sig)=)[^&\s#\"'\\]+", re.IGNORECASE
)
"""A password among the parameters: `?password=…` of a database, the signature of a link to a cloud's storage."""


def redact(text: str) -> str:
    """The text with `***` for the user and password of every URI in it, and for secrets among its parameters."""
    return _QUERY.sub(r"\1***", _DATABASE_USERINFO.sub(r"\1***@", _USERINFO.sub("***@", text)))
