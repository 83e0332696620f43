"""What each service of the team is: the one table behind `tuneline stack` and the tests of the container files.

Commands hold no secrets, since every user of a machine may read them (`ps`). A setting whose value is a secret is named
in `secrets`: variable -> name of the secret in `SECRETS`. Names and defaults were read in MLflow 3.17 and Prefect 3.8.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.foundation.values import Value

POOL = "tuneline"
"""Prefect's work pool: type process here and in the compose file."""

MLFLOW_ADMIN = "admin"
WORKER = "worker"
"""The worker's user in MLflow: no admin; it may change what it has made, and read the rest."""

SUPERUSER = "tuneline"
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "prefect": "prefect"}
"""Database -> the role that owns it, and the only one that may connect to it."""

ROLES = {"mlflow": "mlflow-database", "prefect": "prefect-database"}
"""Role -> the secret that is its password."""

SECRETS = {
    "postgres": "password of Postgres' superuser",
    "mlflow-database": "password of the role mlflow",
    "prefect-database": "password of the role prefect",
    "mlflow-admin": "password of MLflow's user admin",
    "mlflow-worker": "password of MLflow's user worker",
    "mlflow-key": "key that signs MLflow's forms",
    "prefect-auth": "what Prefect asks for: user:password",
}
"""Name -> what it is for."""

SOURCES = r"^(mlflow-artifacts|models|runs):/"
"""Where the files of a model version may lie: behind MLflow, never at a path or address that the client makes up."""


class Address(Value):
    """Where a service listens, as others reach it."""

    host: str = "127.0.0.1"
    port: int = Field(ge=1, le=65535)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Place(Value):
    """What differs between one machine and a set of containers: addresses, folders, sizes."""

    folder: str
    """Where services keep their files."""
    postgres: Address = Address(port=15432)
    mlflow: Address = Address(port=5000)
    prefect: Address = Address(port=4200)
    bind: str = "127.0.0.1"
    """The address that servers listen on: loopback, unless something stands before them that speaks TLS."""
    mlflow_origin: str | None = None
    """Scheme, host and port by which browsers know MLflow; its address, when absent."""
    prefect_origin: str | None = None
    """The same for Prefect."""
    artifacts: str | None = None
    """Where MLflow keeps artifacts: a folder, or s3://bucket/path; `<folder>/artifacts`, when absent."""
    mlflow_processes: int = Field(default=1, ge=1)
    """Processes that answer for MLflow, some 200 MB each."""
    runs: str = "runs"
    """The runs folder of the worker (TUNELINE_RUNS)."""

    @property
    def mlflow_page(self) -> str:
        """The origin of MLflow's page."""
        return (self.mlflow_origin or f"http://{self.mlflow}").rstrip("/")

    @property
    def prefect_page(self) -> str:
        """The origin of Prefect's page."""
        return (self.prefect_origin or f"http://{self.prefect}").rstrip("/")


class Open(Value):
    """What a server answers to somebody without credentials, and why it may."""

    path: str
    """A path; with `*` at its end, all that begin so."""
    why: str


class Service(Value):
    """One service."""

    name: str
    command: tuple[str, ...]
    """Program and arguments."""
    settings: dict[str, str] = Field(default_factory=dict)
    """Variable -> value."""
    secrets: dict[str, str] = Field(default_factory=dict)
    """Variable -> name of a secret."""
    address: Address | None = None
    """None for one that nobody calls."""
    health: str | None = None
    """Path that answers 200 without credentials once it serves; None where health is something else."""
    stop_signal: Literal["SIGTERM", "SIGINT"] = "SIGTERM"
    """What ends it in order."""
    needs: tuple[str, ...] = ()
    """Services that must be healthy first."""
    unauthenticated: tuple[Open, ...] = ()
    """All that it answers without credentials."""


def services(place: Place) -> tuple[Service, ...]:
    """Every service, in the order in which they start."""
    return (_postgres(place), _mlflow(place), _prefect(place), _worker(place))


def mlflow_auth_file(place: Place) -> str:
    """Content of the file that MLFLOW_AUTH_CONFIG_PATH names. No password: PGPASSWORD and
    MLFLOW_AUTH_ADMIN_PASSWORD hold those.

    READ by default: a team reads each other's runs, and each user changes only what it has made. A password that was
    right is remembered for half a minute: to check it takes 0.1 s of a core, and a page asks dozens of times.
    """
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {_database('mlflow_auth', place)}\n"
        f"admin_username = {MLFLOW_ADMIN}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        "grant_default_workspace_access = false\n"
        "auth_cache_ttl_seconds = 30\n"
    )


def mlflow_auth_path(place: Place) -> str:
    """Where that file lies."""
    return f"{place.folder}/mlflow/auth.ini"


def _postgres(place: Place) -> Service:
    settings = {
        "listen_addresses": place.bind,
        "port": str(place.postgres.port),
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "max_connections": "200",
        "log_min_error_statement": "panic",  # a statement that fails is not repeated in the log with its values
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return Service(
        name="postgres",
        command=("postgres", "-D", f"{place.folder}/postgres/data", *options),
        address=place.postgres,
        stop_signal="SIGINT",  # SIGTERM would wait for every client to go by itself
    )


def _mlflow(place: Place) -> Service:
    origin = place.mlflow_page
    hosts = dict.fromkeys((str(place.mlflow), origin.partition("://")[2]))
    return Service(
        name="mlflow",
        command=(
            *("mlflow", "server", "--app-name", "basic-auth"),
            *("--host", place.bind, "--port", str(place.mlflow.port), "--workers", str(place.mlflow_processes)),
            *("--serve-artifacts", "--artifacts-destination", place.artifacts or f"{place.folder}/artifacts"),
        ),
        settings={
            "MLFLOW_BACKEND_STORE_URI": _database("mlflow", place),
            "MLFLOW_AUTH_CONFIG_PATH": mlflow_auth_path(place),
            "MLFLOW_AUTH_ADMIN_USERNAME": MLFLOW_ADMIN,
            "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": origin,
            "MLFLOW_SERVER_X_FRAME_OPTIONS": "DENY",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_SERVER_ENABLE_CUSTOM_SCORERS": "false",
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_ENABLE_REMOTE_ASSISTANT": "false",
            "MLFLOW_ENABLE_ASSISTANT_SANDBOX": "true",  # without Docker it runs nothing, rather than on the host
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": SOURCES,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
        },
        secrets={
            "PGPASSWORD": "mlflow-database",  # libpq takes it where the URI names none
            "MLFLOW_AUTH_ADMIN_PASSWORD": "mlflow-admin",
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "mlflow-key",
        },
        address=place.mlflow,
        health="/health",
        needs=("postgres",),
        unauthenticated=(
            Open(path="/health", why="health"),
            Open(path="/static-files/*", why="files of the page, the same in every installation"),
            Open(path="/api/3.0/mlflow/server-info", why="which features are on; clients ask before they log in"),
            Open(path="/ajax-api/3.0/mlflow/server-info", why="the same for the page"),
        ),
    )


def _prefect(place: Place) -> Service:
    return Service(
        name="prefect",
        command=(
            *("uvicorn", "--factory", "flows.team_prefect:create_app", "--log-level", "warning"),
            *("--host", place.bind, "--port", str(place.prefect.port)),
        ),
        settings={
            "PREFECT_HOME": f"{place.folder}/prefect",
            "PREFECT_SERVER_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_SERVER_DATABASE_HOST": place.postgres.host,
            "PREFECT_SERVER_DATABASE_PORT": str(place.postgres.port),
            "PREFECT_SERVER_DATABASE_USER": "prefect",
            "PREFECT_SERVER_DATABASE_NAME": "prefect",
            "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": place.prefect_page,
            "PREFECT_SERVER_UI_API_URL": f"{place.prefect_page}/api",
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": f"{place.folder}/prefect/pages",  # not into the installed package
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "DO_NOT_TRACK": "1",
        },
        secrets={
            "PREFECT_SERVER_DATABASE_PASSWORD": "prefect-database",
            "PREFECT_SERVER_API_AUTH_STRING": "prefect-auth",
        },
        address=place.prefect,
        health="/api/health",
        needs=("postgres",),
        unauthenticated=(
            Open(path="/api/health", why="health"),
            Open(path="/api/ready", why="health"),
            Open(path="/ui-settings", why="where the page finds the API, and that it must ask for a password"),
            Open(path="/", why="the page that asks for the password, the same in every installation"),
            Open(path="/assets/*", why="its files"),
            Open(path="/v2/*", why="the second page and its files"),
        ),
    )


def _worker(place: Place) -> Service:
    return Service(
        name="worker",
        command=("prefect", "worker", "start", "--pool", POOL, "--type", "process", "--install-policy", "never"),
        settings={
            "PREFECT_HOME": f"{place.folder}/worker",
            "PREFECT_API_URL": f"http://{place.prefect}/api",
            "PREFECT_UI_URL": place.prefect_page,
            "PREFECT_WORKER_QUERY_SECONDS": "5",  # of 10: somebody has pressed a button and waits
            "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
            "MLFLOW_TRACKING_URI": f"http://{place.mlflow}",
            "MLFLOW_TRACKING_USERNAME": WORKER,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
            "TUNELINE_RUNS": place.runs,
        },
        secrets={"PREFECT_API_AUTH_STRING": "prefect-auth", "MLFLOW_TRACKING_PASSWORD": "mlflow-worker"},
        needs=("mlflow", "prefect"),
    )


def _database(name: str, place: Place) -> str:
    """A database's URI without its password."""
    return f"postgresql+psycopg://{DATABASES[name]}@{place.postgres}/{name}"
