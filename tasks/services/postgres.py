"""Postgres from the system's packages: its programs, a cluster of our own, roles and databases."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.errors import DependencyError, ResourceError
from tasks.services.catalogue import DATABASES, ROLES, SUPERUSER, Address
from tasks.services.layout import Stack, is_root

if TYPE_CHECKING:
    import psycopg

_SYSTEM = Path("/usr/lib/postgresql")
"""Where Debian and Ubuntu keep a folder for each version."""
_USER = "postgres"
"""Whom Postgres runs as where we are root: it refuses to run as root. The system's package makes this user."""
_CONNECT_SECONDS = 3


def program(name: str) -> str:
    """The path of one of Postgres' programs, the newest version first.

    Raises:
        ResourceError: Postgres is not installed.
    """
    versions = sorted(_SYSTEM.glob("*/bin"), key=lambda folder: _number(folder.parent.name), reverse=True)
    path = os.pathsep.join([*map(str, versions), os.environ.get("PATH", "")])
    if (found := shutil.which(name, path=path)) is None:
        raise ResourceError(
            f"Postgres is not installed: there is no {name}",
            where="tuneline stack",
            fix="Run infra/install-system-packages.sh, or install the package postgresql",
        )
    return found


def run_as() -> dict[str, Any]:
    """Arguments of `subprocess` that make a process Postgres' user; none where we are not root.

    Raises:
        ResourceError: there is no such user.
    """
    if not is_root():
        return {}
    try:
        group = pwd.getpwnam(_USER).pw_gid
    except KeyError:
        raise ResourceError(
            f"Postgres does not run as root, and there is no user {_USER}",
            where="tuneline stack",
            fix=f"Run this as an ordinary user, or make one: useradd --system {_USER}",
        ) from None
    return {"user": _USER, "group": group, "extra_groups": []}


def make_cluster(stack: Stack, password: str) -> None:
    """Make the folder with Postgres' files, unless it is there. The superuser's password goes through a file.

    Raises:
        ResourceError: Postgres' user cannot get at the folder, or the disk is full.
    """
    data = stack.postgres_folder / "data"
    if (data / "PG_VERSION").exists():
        return
    identity = run_as()
    if identity:
        os.chown(stack.folder, -1, identity["group"])
        stack.folder.chmod(0o710)  # Postgres' group may pass through, and sees nothing else
        shutil.chown(stack.postgres_folder, _USER, identity["group"])
    shutil.rmtree(data, ignore_errors=True)  # what a start that was killed has left
    with tempfile.NamedTemporaryFile("w", prefix="tuneline-") as file:
        file.write(password)
        file.flush()
        if identity:
            shutil.chown(file.name, _USER)
        _run_initdb(data, file.name, identity)


def _run_initdb(data: Path, password_file: str, identity: dict[str, Any]) -> None:
    done = subprocess.run(
        [
            *(program("initdb"), "--pgdata", str(data), "--username", SUPERUSER, "--pwfile", password_file),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
        ],
        cwd="/",
        env={"PATH": os.environ.get("PATH", "")},
        capture_output=True,
        text=True,
        check=False,
        **identity,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        if identity and "Permission denied" in done.stderr:
            said = f"the user {_USER} cannot reach it: {said}"
        fix = "Set TUNELINE_STACK to a folder below one that everybody may pass through, on a disk with room"
        raise ResourceError(f"Postgres' files cannot be made: {said}", where=str(data), fix=fix)


def connect(address: Address, password: str, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
    """As superuser.

    Raises:
        DependencyError: it does not answer, or not to this password.
    """
    import psycopg

    try:
        return psycopg.connect(
            host=address.host,
            port=address.port,
            user=SUPERUSER,
            password=password,
            dbname=database,
            connect_timeout=_CONNECT_SECONDS,
            autocommit=True,
        )
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines()[-1]
        raise DependencyError(f"Postgres does not answer: {said}", where=str(address), fix="See its log") from None


def make_databases(address: Address, passwords: dict[str, str]) -> None:
    """Make the roles and databases that are missing. Passwords reach the server as SCRAM verifiers, so that neither its
    log nor its table of activity ever holds one.
    """
    from psycopg import sql

    with closing(connect(address, passwords["postgres"])) as server:
        for role, secret in ROLES.items():
            if not server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                verifier = server.pgconn.encrypt_password(passwords[secret].encode(), role.encode(), b"scram-sha-256")
                server.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), verifier.decode())
                )
        for name, role in DATABASES.items():
            if not server.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                new = sql.Identifier(name)
                server.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(new, sql.Identifier(role)))
                server.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(new))


def _number(version: str) -> float:
    try:
        return float(version)
    except ValueError:
        return 0.0
