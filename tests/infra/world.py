"""The compose file's services as processes: a real Postgres, a real SeaweedFS and a real MLflow, with the file's own
commands, settings and scripts; only addresses and folders are others.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.services import postgres
from tasks.services.catalogue import Place
from tasks.services.layout import Stack
from tests.infra import files
from tests.ports import free_port

SERVICES = files.compose()["services"]
ENDS = {"postgres": signal.SIGINT, "object-store": signal.SIGKILL}
"""The store would wait ten seconds for its clients; the test has none left."""
PROGRAMS = ("weed", "rclone", "mlflow", "prefect")


class World:
    """Where its services listen, and its folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder / "secrets"
        self.backups = folder / "backups"
        self.ports = {name: free_port() for name in ("postgres", "object-store", "mlflow")}
        self.hidden = [free_port() for _ in range(6)]

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="utf-8").strip()

    def here(self, text: str) -> str:
        """A setting of the compose file, with this world's addresses and folders."""
        for name, inner in (("postgres", 5432), ("object-store", 8333), ("mlflow", 5000)):
            text = text.replace(f"{name}:{inner}", f"127.0.0.1:{self.ports[name]}")
        text = text.replace("/run/secrets", str(self.secrets))
        return text.replace("/var/lib/tuneline/mlflow/auth.ini", str(self.folder / "auth.ini"))

    def environment(self, service: str) -> dict[str, str]:
        """What the service's program would see: settings, and the secrets that `from-secrets` exports."""
        one = SERVICES[service]
        told = {name: self.here(value) for name, value in one["environment"].items()}
        for secret in one["secrets"]:
            if isinstance(secret, dict):
                told[secret["target"]] = self.secret(secret["source"])
        if service in ("backup", "restore"):
            told |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres"]), "BACKUPS": str(self.backups)}
            told |= {"ROLES": str(files.IMAGES / "roles.sql")}
        told |= {name: "127.0.0.1" for name in told if name == "PREFECT_SERVER_DATABASE_HOST"}
        told |= {name: str(self.ports["postgres"]) for name in told if name == "PREFECT_SERVER_DATABASE_PORT"}
        bins = f"{Path(sys.executable).parent}:{Path(postgres.program('psql')).parent}:{os.environ['PATH']}"
        return told | {"PATH": bins, "HOME": str(self.folder), "SECRETS": str(self.secrets)}

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the images as the service would."""
        program, *arguments = command
        [script] = files.IMAGES.glob(f"{program}.*")
        if script.suffix == ".py":
            arguments = [str(script), *arguments]
            script = Path(sys.executable)
        return subprocess.run(
            [str(script), *arguments],
            env=self.environment(service),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def sql(self, database: str, text: str) -> list[tuple[object, ...]]:
        from contextlib import closing

        address = self.place.postgres
        with closing(postgres.connect(address, self.secret("postgres"), database)) as server:
            asked = server.execute(text.encode())
            return asked.fetchall() if asked.description else []

    @property
    def place(self) -> Place:
        from tasks.services.catalogue import Address

        return Place(folder=str(self.folder), postgres=Address(port=self.ports["postgres"]))

    @contextmanager
    def process(self, name: str, command: list[str], environment: dict[str, str], **identity: object) -> Iterator[None]:
        """A service as a process, for the length of the block."""
        with (self.folder / f"{name}.log").open("ab") as log:
            started = subprocess.Popen(  # type: ignore[call-overload]
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True, **identity
            )
        try:
            yield
        finally:
            os.killpg(started.pid, ENDS.get(name, signal.SIGTERM))
            started.wait(60)

    @contextmanager
    def postgres(self) -> Iterator[None]:
        stack = Stack(folder=self.folder, place=self.place)
        stack.postgres_folder.mkdir()
        postgres.make_cluster(stack, self.secret("postgres"))
        options = postgres_options(SERVICES["postgres"]["command"])
        options |= {"port": str(self.ports["postgres"]), "unix_socket_directories": ""}
        options |= {"listen_addresses": "127.0.0.1"}
        listed = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [postgres.program("postgres"), "-D", str(stack.postgres_folder / "data"), *listed]
        with self.process("postgres", command, {"PATH": os.environ["PATH"]}, **postgres.run_as()):
            ready = [postgres.program("pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={self.ports['postgres']}"]
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)
            yield

    @contextmanager
    def object_store(self) -> Iterator[None]:
        (self.folder / "objects").mkdir()
        given = [self.here(part) for part in SERVICES["object-store"]["command"]]
        changed = {"-dir": f"{self.folder}/objects", "-s3.port": str(self.ports["object-store"])}
        changed |= {"-s3.ip.bind": "127.0.0.1"}
        kept = [part for part in given if part.split("=")[0] not in changed]
        inner = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        ports = [f"-{name}={port}" for name, port in zip(inner, self.hidden, strict=True)]
        ports.append(f"-s3.port.grpc={free_port()}")
        command = [str(files.tool("weed")), *kept, *(f"{name}={value}" for name, value in changed.items()), *ports]
        with self.process("object-store", command, {"PATH": os.environ["PATH"], "HOME": str(self.folder)}):
            wait_until_up(f"http://127.0.0.1:{self.ports['object-store']}/healthz")
            yield

    @contextmanager
    def mlflow(self) -> Iterator[str]:
        """Its address, once it answers."""
        changed = {"0.0.0.0": "127.0.0.1", "5000": str(self.ports["mlflow"]), "4": "1"}  # noqa: S104
        command = [changed.get(part, part) for part in SERVICES["mlflow"]["command"]]
        program = [sys.executable, "-m", *command]
        address = f"http://127.0.0.1:{self.ports['mlflow']}"
        with self.process("mlflow", program, self.environment("mlflow")):
            wait_until_up(f"{address}/health")
            yield address


def postgres_options(command: list[str]) -> dict[str, str]:
    return dict(part[2:].split("=", 1) for part in command if part.startswith("-c"))


def wait_until(condition: object, seconds: float = 300) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come up"
        time.sleep(0.3)


def wait_until_up(url: str) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    wait_until(answers)


@contextmanager
def running(folder: Path) -> Iterator[World]:
    """Postgres and SeaweedFS with the roles, the bucket and the tables, as after a first start of compose."""
    for name in PROGRAMS:
        if not files.tool(name):
            pytest.skip(f"{name} is not installed")
    world = World(folder)
    subprocess.run([str(files.COMPOSE / "make-secrets.sh"), str(world.secrets)], check=True)
    auth = world.here((files.IMAGES / "auth.ini").read_text(encoding="utf-8"))
    (folder / "auth.ini").write_text(auth, encoding="utf-8")
    with world.postgres(), world.object_store():
        roles(world)
        bucket = subprocess.run(SERVICES["bucket"]["command"], env=world.environment("bucket"), check=False)
        assert bucket.returncode == 0
        migrated = world.run("migrate", *SERVICES["migrate"]["command"])
        assert migrated.returncode == 0, migrated.stderr
        yield world


def roles(world: World) -> None:
    """roles.sql, as the image's start script runs it."""
    environment = world.environment("backup")
    command = [postgres.program("psql"), "--no-psqlrc", "--quiet", "--dbname=postgres", "--file", environment["ROLES"]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"ERROR", done.stderr)
