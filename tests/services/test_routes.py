"""Without credentials, no route of either server answers, but for those that the catalogue names with a reason."""

from __future__ import annotations

import base64
import functools
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tasks.services.catalogue import Address, Open, Service
from tasks.services.healthy import fetch
from tests.services.stack import RunningStack, clean_environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

REFUSED = {401, 403}
HERE = {"_MLFLOW_SGI_NAME": "uvicorn"}
"""What `mlflow server` sets for its own processes."""


@functools.cache
def routes_of(team: RunningStack, name: str) -> list[tuple[str, str]]:
    """Method and path of every route, from the application itself, made under the settings of the running server."""
    service = team.service(name)
    secrets = {variable: team.secrets[secret] for variable, secret in service.secrets.items()}
    printed = subprocess.run(
        [sys.executable, "-m", "tests.services.route_tables", name],
        cwd=team.folder,
        env=clean_environment() | service.settings | secrets | HERE,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(method, path) for method, path in json.loads(printed.stdout)]


def answers(
    address: Address, asked: list[tuple[str, str]], headers: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str, int]]:
    for method, path in asked:
        with closing(http.client.HTTPConnection(address.host, address.port, timeout=30)) as connection:
            body = "{}" if method in {"POST", "PUT", "PATCH"} else None
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            yield method, path, connection.getresponse().status


def is_open(service: Service, path: str) -> bool:
    return any(matches(rule, path) for rule in service.unauthenticated)


def matches(rule: Open, path: str) -> bool:
    return path.startswith(rule.path[:-1]) if rule.path.endswith("*") else path == rule.path


def test_every_route_of_mlflow_refuses_who_has_no_credentials(team: RunningStack) -> None:
    service = team.service("mlflow")
    routes = routes_of(team, "mlflow")
    paths = {path for _, path in routes}
    assert len(routes) > 900
    assert {"/graphql", "/ajax-api/3.0/jobs/", "/api/2.0/mlflow-artifacts/mpu/create/x", "/get-artifact"} <= paths
    assert service.address is not None

    answered = [
        (method, path, status)
        for method, path, status in answers(service.address, routes)
        if status not in REFUSED and not is_open(service, path)
    ]

    assert answered == []


def test_every_route_of_prefect_refuses_who_has_no_credentials_even_with_a_csrf_token(team: RunningStack) -> None:
    service = team.service("prefect")
    routes = [(method, path) for method, path in routes_of(team, "prefect") if method != "WEBSOCKET"]
    assert len(routes) > 180
    assert {"/api/flow_runs/filter", "/api/admin/settings", "/api/csrf-token"} <= {path for _, path in routes}
    assert service.address is not None
    given = fetch(f"http://{service.address}/api/csrf-token?client=walk", team.secrets["prefect-auth"])
    token = {"Prefect-Csrf-Client": "walk", "Prefect-Csrf-Token": given["token"]}

    answered = [
        (method, path, status)
        for method, path, status in answers(service.address, routes, token)
        if status != 401 and not is_open(service, path)
    ]

    assert answered == []


def test_what_prefect_describes_of_its_api_is_for_those_who_log_in(team: RunningStack) -> None:
    service = team.service("prefect")
    assert service.address is not None
    asked = [("GET", path) for path in ("/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc", "/api/docs")]

    assert {status for _, _, status in answers(service.address, asked)} == {401}


def test_any_other_address_below_prefects_page_is_the_page_itself(team: RunningStack) -> None:
    address = team.stack.place.prefect
    pages = set()
    for path in ("/", "/flow-runs", "/blocks/block/x", "/ui-settings/x", "/apix"):
        with closing(http.client.HTTPConnection(address.host, address.port, timeout=30)) as connection:
            connection.request("GET", path, headers={"Accept": "text/html", "Cookie": "prefect_ui_version=v1"})
            pages.add(connection.getresponse().read())

    assert len(pages) == 1


@pytest.mark.parametrize(
    "path",
    [
        "/api/variables/name/health",
        "/api/block_types/slug/ready",
        "/api//health",
        "/api/health/",
        "/api/x/../health/../admin/settings",
        "/API/admin/settings",
        "/api/admin/settings/health",
        "/api%2Fadmin/settings",
    ],
)
def test_a_path_that_looks_like_health_lets_nobody_into_prefect(team: RunningStack, path: str) -> None:
    service = team.service("prefect")
    assert service.address is not None
    [(_, _, status)] = answers(service.address, [("GET", path)])

    assert status in {401, 403, 404}


@pytest.mark.parametrize(
    "path",
    [
        "/health/../api/2.0/mlflow/users/list",
        "/static-files/../graphql",
        "/static-files/%2e%2e/%2e%2e/basic_auth.ini",
        "/health;/../graphql",
        "//api/2.0/mlflow/experiments/search",
        "/healthy",
        "/api/2.0/mlflow/experiments/search/health",
        "/ajax-api/3.0/mlflow/server-info/../experiments/search",
    ],
)
def test_a_path_that_looks_open_lets_nobody_into_mlflow(team: RunningStack, path: str) -> None:
    service = team.service("mlflow")
    assert service.address is not None
    [(_, _, status)] = answers(service.address, [("GET", path)])

    assert status in {401, 403, 404}


def test_what_mlflow_tells_everybody_about_itself_names_features_only(team: RunningStack) -> None:
    told = fetch(f"http://{team.stack.place.mlflow}/api/3.0/mlflow/server-info")

    features = told.pop("features_enabled")
    assert features == {"gateway": False}
    assert told.pop("store_type") == "SqlStore"
    assert all(isinstance(value, bool) for value in told.values())


def test_every_websocket_of_prefect_closes_without_credentials(team: RunningStack) -> None:
    sockets = [path for method, path in routes_of(team, "prefect") if method == "WEBSOCKET"]
    assert {"/api/events/in", "/api/logs/out"} <= set(sockets)

    for path in sockets:
        url = f"ws://{team.stack.place.prefect}{path}"
        with pytest.raises(InvalidStatus) as refused:
            connect(url)
        assert refused.value.response.status_code == 403
        for first in ({"type": "auth"}, {"type": "auth", "token": "admin:guess"}, {"type": "filter", "filter": {}}):
            with connect(url, subprotocols=["prefect"]) as socket:  # type: ignore[list-item]
                socket.send(json.dumps(first))
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=20)


def test_mlflow_has_no_websocket(team: RunningStack) -> None:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"ws://{team.stack.place.mlflow}/graphql")

    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1"])
def test_mlflow_refuses_other_host_names_even_with_credentials(team: RunningStack, host: str) -> None:
    service = team.service("mlflow")
    assert service.address is not None
    pair = base64.b64encode(f"admin:{team.secrets['mlflow-admin']}".encode()).decode()
    asked = [("GET", "/api/2.0/mlflow/experiments/search?max_results=1")]
    [(_, _, right)] = answers(service.address, asked, {"Authorization": f"Basic {pair}"})
    [(_, _, status)] = answers(service.address, asked, {"Authorization": f"Basic {pair}", "Host": host})

    assert (right, status) == (200, 403)


def test_another_origin_gets_no_leave_from_either_server(team: RunningStack) -> None:
    origin = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for address, path in (
        (team.stack.place.mlflow, "/api/2.0/mlflow/experiments/create"),
        (team.stack.place.prefect, "/api/flows/filter"),
    ):
        with closing(http.client.HTTPConnection(address.host, address.port, timeout=30)) as connection:
            connection.request("OPTIONS", path, headers=origin)
            answer = connection.getresponse()
        assert answer.status in {400, 401, 403}
        assert answer.getheader("Access-Control-Allow-Origin") is None
