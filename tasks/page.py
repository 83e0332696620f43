"""What a step leaves on Prefect's page beside its state.

A courtesy: no run fails, or waits for long, for want of Prefect's server.
"""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context

from prefect.artifacts import create_markdown_artifact

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 10.0
"""Prefect's client asks a server that is away again and again for a minute: by then the step has gone on."""


def show(text: str, *, key: str, about: str) -> None:
    """Put a Markdown document among the artifacts of the task that runs; `about` is what its card says of it."""

    def put() -> None:
        try:
            create_markdown_artifact(text, key=key, description=about)
        except Exception as error:  # whatever keeps Prefect from taking it
            log.warning("Prefect's page does not show %s: %s: %s", key, type(error).__name__, error)

    thread = threading.Thread(target=copy_context().run, args=(put,), daemon=True)
    thread.start()
    thread.join(_PATIENCE_SECONDS)


def artifact_key(*words: str) -> str:
    """A key as Prefect takes it: lower-case letters, digits and dashes."""
    return "-".join("".join(c if c.isalnum() and c.isascii() else "-" for c in word.lower()) for word in words)


def linked(text: str, url: str | None) -> str:
    """The text as a link, where there is something to link to."""
    return f"[{text}]({url})" if url else text
