"""Which tracking server: from settings or environment, checked, made absolute."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from tasks.foundation.digests import digest_text
from tasks.foundation.errors import ConfigError
from tasks.tracking.redaction import redact
from tasks.tracking.settings import TrackingSettings

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_ALLOWED = "sqlite:///file.db, http(s)://host:port, or postgresql://, mysql:// and mssql:// with host and database"


def tracking_uri(settings: TrackingSettings) -> str:
    """The URI to use. MLFLOW_TRACKING_URI wins where the experiment sets none; a relative SQLite path is made absolute.

    Raises:
        ConfigError: MLflow has no store for it (a folder such as `./mlruns` is one no longer).
    """
    uri = settings.uri
    if "uri" not in settings.model_fields_set:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or uri
    scheme = uri.split("://")[0].split("+")[0]
    if "://" not in uri or scheme not in (*_DATABASES, "http", "https"):
        raise ConfigError(
            f"{redact(uri)} is not a tracking server", where="tracking.uri", allowed=_ALLOWED, fix="Set tracking.uri"
        )
    return _absolute(uri) if scheme == "sqlite" else uri.rstrip("/")


def _absolute(uri: str) -> str:
    head, _, rest = uri.partition(":///")
    path, question, query = rest.partition("?")
    if not path or path == ":memory:":
        raise ConfigError(f"{uri} keeps nothing", where="tracking.uri", allowed=_ALLOWED, fix="Name a file")
    return f"{head}:///{Path(path).absolute()}{question}{query}"


def is_server(uri: str) -> bool:
    """True for an MLflow server, False for a database that this process opens itself."""
    return uri.startswith(("http://", "https://"))


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI."""
    if urlsplit(uri).scheme.split("+")[0] != "sqlite":
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def without_password(uri: str) -> str:
    """The URI without user and password: for links and for identity."""
    return redact(uri).replace("://***@", "://")


def destination(uri: str) -> str:
    """A name for the server that stays the same when its password changes."""
    return digest_text(without_password(uri))[:16]
