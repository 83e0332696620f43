"""Prints every route of a server as JSON: `python -m tests.services.route_tables mlflow`, under its settings."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

Route = tuple[str, str]
"""Method (WEBSOCKET for a websocket) and path, with `x` for every variable part."""


def main(server: str) -> None:
    """The application is made as the server makes it, and its own tables are read."""
    sys.stdout.write(json.dumps(sorted(set(_mlflow() if server == "mlflow" else _prefect()))))


def _mlflow() -> Iterator[Route]:
    from mlflow.server import app as flask
    from mlflow.server.auth import create_app

    native: Any = create_app(flask)
    yield from _starlette(native.routes)
    for rule in flask.url_map.iter_rules():
        yield from ((method, re.sub(r"<[^>]*>", "x", rule.rule)) for method in rule.methods or ())


def _prefect() -> Iterator[Route]:
    from flows.team_prefect import create_app

    yield from _starlette(create_app().routes)


def _starlette(routes: Iterable[Any], prefix: str = "") -> Iterator[Route]:
    for route in routes:
        if hasattr(route, "original_router"):  # a router as FastAPI includes it since 0.137
            yield from _starlette(route.original_router.routes, prefix + route.include_context.prefix)
        elif hasattr(route, "app") and hasattr(route.app, "routes") and not hasattr(route, "endpoint"):
            yield from _starlette(route.app.routes, prefix + route.path)
        else:
            path = re.sub(r"{[^}]*}", "x", prefix + route.path)
            methods = getattr(route, "methods", None) or (["WEBSOCKET"] if "WebSocket" in type(route).__name__ else [])
            yield from ((method, path) for method in methods)


if __name__ == "__main__":
    main(sys.argv[1])
