"""Where MLflow's pages of a run, an experiment and a version are: links for people, without passwords.

A database has no pages of its own: there is no link, unless `tracking.ui_url` says where somebody serves it.
"""

from __future__ import annotations

from urllib.parse import quote

from tasks.tracking.cursor import Cursor, read_cursor
from tasks.tracking.settings import TrackingSettings
from tasks.tracking.uri import destination, is_server, tracking_uri, without_password
from tasks.tracking.values import RunRef


def run_page(tracking: TrackingSettings, ref: RunRef) -> str | None:
    """The run's page; None before the run exists there."""
    root, cursor = _root(tracking), _cursor(tracking, ref)
    return f"{root}/experiments/{cursor.experiment_id}/runs/{cursor.run_id}" if root and cursor else None


def experiment_page(tracking: TrackingSettings, ref: RunRef) -> str | None:
    """The page of the run's experiment: the table of all its runs."""
    root, cursor = _root(tracking), _cursor(tracking, ref)
    return f"{root}/experiments/{cursor.experiment_id}/runs" if root and cursor else None


def version_page(tracking: TrackingSettings, name: str, version: int) -> str | None:
    """The page of a version of a registered model."""
    root = _root(tracking)
    return f"{root}/models/{quote(name, safe='')}/versions/{version}" if root else None


def _root(tracking: TrackingSettings) -> str | None:
    uri = tracking.ui_url or tracking_uri(tracking)
    return f"{without_password(uri).rstrip('/')}/#" if is_server(uri) else None


def _cursor(tracking: TrackingSettings, ref: RunRef) -> Cursor | None:
    """Of a run that this server knows."""
    cursor = read_cursor(ref.journal)
    known = cursor and cursor.run_id and cursor.destination == destination(tracking_uri(tracking))
    return cursor if known else None
