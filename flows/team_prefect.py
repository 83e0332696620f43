"""Prefect's server for a team: `prefect server start`, less what it would tell about its API to who has not logged in.

Served by `uvicorn --factory flows.team_prefect:create_app`. Prefect's password guards what lies below /api, where the
same description is; the copies beside it (/docs, /redoc, /openapi.json) have no guard and no setting.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

CLOSED = ("/docs", "/redoc", "/openapi.json")


def create_app() -> Any:
    """Prefect's application, behind `Closed`."""
    from prefect.server.api.server import create_app as create

    app = create(final=True)
    app.add_middleware(Closed)
    return app


class Closed:
    """Answers 401 for the description of the API and all below it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on."""
        if scope["type"] == "http" and scope["path"].startswith(CLOSED):
            await PlainTextResponse("Log in, then see /api/docs\n", 401)(scope, receive, send)
        else:
            await self.app(scope, receive, send)
