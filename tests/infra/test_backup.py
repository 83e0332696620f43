"""The scripts of the images against real servers: first start, rotation, backup, and a restore of what was lost."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tasks.services.catalogue import DATABASES, ROLES, WORKER
from tests.infra import files, world

pytestmark = pytest.mark.system
CONTENT = "what an artifact holds\n" * 1000


@pytest.fixture(scope="module")
def team() -> Iterator[world.World]:
    with tempfile.TemporaryDirectory(prefix="tuneline-") as folder:
        Path(folder).chmod(0o711)  # Postgres' own user must be able to pass through
        with world.running(Path(folder)) as started:
            yield started


def call(url: str, user: str, password: str, body: object = None, method: str | None = None) -> Any:
    data = body.encode() if isinstance(body, str) else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method)  # noqa: S310
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    if not isinstance(body, str):
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return answer.read().decode()


def objects(team: world.World, command: str, *arguments: str, service: str = "backup") -> str:
    """rclone, with the credentials of a service."""
    environment = team.environment("backup")
    if service != "backup":
        environment["AWS_SHARED_CREDENTIALS_FILE"] = str(team.secrets / "s3-mlflow")
    done = subprocess.run(
        ["rclone", command, "--config", "/dev/null", "--retries", "1", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else f"refused: {done.stderr}"


def rows(team: world.World) -> dict[str, list[tuple[object, ...]]]:
    return {
        "mlflow": team.sql("mlflow", "SELECT name, lifecycle_stage FROM experiments ORDER BY 1"),
        "mlflow_auth": team.sql("mlflow_auth", "SELECT username, password_hash FROM users ORDER BY 1"),
        "prefect": team.sql("prefect", "SELECT key, value::text FROM configuration ORDER BY 1"),
        "tables": [
            row
            for name in DATABASES
            for row in team.sql(
                name,
                "SELECT current_database()::text, tablename::text, tableowner::text FROM pg_tables"
                " WHERE schemaname = 'public' ORDER BY 2",
            )
        ],
    }


def test_roles_own_their_databases_and_nobody_else_may_enter(team: world.World) -> None:
    found = team.sql("postgres", "SELECT datname::text, pg_get_userbyid(datdba)::text FROM pg_database")
    assert {(name, role) for name, role in found if role in ROLES} == set(DATABASES.items())
    for name, owner in DATABASES.items():
        may = {
            role: team.sql("postgres", f"SELECT has_database_privilege('{role}', '{name}', 'CONNECT')")
            for role in ROLES
        }
        assert may == {role: [(role == owner,)] for role in ROLES}


def test_migrating_again_changes_nothing(team: world.World) -> None:
    before = rows(team)["tables"]
    done = team.run("migrate", "migrate", "mlflow", "prefect")
    assert done.returncode == 0, done.stderr
    assert rows(team)["tables"] == before and before


def test_mlflows_key_to_the_store_opens_one_bucket_and_makes_none(team: world.World) -> None:
    assert objects(team, "lsf", "store:mlflow", service="mlflow") == ""
    assert objects(team, "lsf", "store:", service="mlflow").split() == ["mlflow/"]
    objects(team, "mkdir", "store:other")
    assert objects(team, "lsf", "store:other", service="mlflow").startswith("refused")
    assert objects(team, "mkdir", "store:third", service="mlflow").startswith("refused")


def test_what_was_lost_comes_back(team: world.World) -> None:
    artifact = "api/2.0/mlflow-artifacts/artifacts/1/folder/file.txt"
    password = team.secret("mlflow-worker")
    with team.mlflow() as mlflow:
        for _ in range(2):  # again: gives the same user its password
            done = team.run("users", "users")
            assert done.returncode == 0, done.stderr
        call(f"{mlflow}/api/2.0/mlflow/experiments/create", WORKER, password, {"name": "kept"})
        call(f"{mlflow}/{artifact}", WORKER, password, CONTENT, "PUT")
    team.sql("prefect", "INSERT INTO configuration (key, value) VALUES ('kept', '{\"a\": 1}')")
    before = rows(team)
    assert "artifacts/1/folder/file.txt" in objects(team, "lsf", "-R", "store:mlflow").split()

    made = team.run("backup", "backup")
    assert made.returncode == 0, made.stderr
    folder = Path(made.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "mlflow.dump",
        "mlflow_auth.dump",
        "prefect.dump",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700

    for name in DATABASES:
        team.sql("postgres", f"DROP DATABASE {name} WITH (FORCE)")
    objects(team, "delete", "store:mlflow")
    assert objects(team, "lsf", "-R", "--files-only", "store:mlflow") == ""
    done = team.run("restore", "restore", "latest")
    assert done.returncode == 0, done.stderr

    assert rows(team) == before
    test_roles_own_their_databases_and_nobody_else_may_enter(team)
    with team.mlflow() as mlflow:
        assert call(f"{mlflow}/{artifact}", WORKER, password) == CONTENT
        by_name = f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept"
        assert json.loads(call(by_name, WORKER, password))["experiment"]["name"] == "kept"


def test_a_damaged_or_unfinished_backup_replaces_nothing(team: world.World) -> None:
    made = team.run("backup", "backup")
    folder = Path(made.stdout.strip())
    before = rows(team)
    damaged, unfinished = team.backups / "20200101T000000Z", team.backups / "20200102T000000Z"
    shutil.copytree(folder, damaged)
    content = bytearray((damaged / "prefect.dump").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "prefect.dump").write_bytes(content)
    shutil.copytree(folder, unfinished)
    (unfinished / "SHA256SUMS").unlink()
    assert team.run("restore", "restore", damaged.name).returncode == 40
    assert team.run("restore", "restore", unfinished.name).returncode == 2
    assert rows(team) == before


def test_an_artifact_that_is_overwritten_is_kept_beside_the_backup(team: world.World) -> None:
    team.run("backup", "backup")
    changed = team.folder / "changed.txt"
    changed.write_text("other", encoding="utf-8")
    objects(team, "copyto", str(changed), "store:mlflow/artifacts/1/folder/file.txt")
    folder = Path(team.run("backup", "backup").stdout.strip())
    assert (folder / "replaced/artifacts/1/folder/file.txt").read_text(encoding="utf-8") == CONTENT


def log_in(team: world.World) -> None:
    port, password = team.ports["postgres"], team.secret("mlflow-database")
    psycopg.connect(host="127.0.0.1", port=port, user="mlflow", password=password, dbname="mlflow").close()


def test_a_role_takes_the_password_that_the_secret_now_holds(team: world.World) -> None:
    (team.secrets / "mlflow-database").unlink()
    subprocess.run([str(files.COMPOSE / "make-secrets.sh"), str(team.secrets)], check=True)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        log_in(team)
    world.roles(team)
    log_in(team)
