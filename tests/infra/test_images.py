"""Dockerfile and scripts: clean for their linters, pinned, and doing what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.services.catalogue import SECRETS
from tasks.services.passwords import provide_secrets, variable
from tests.infra import files

DOCKERFILE = (files.IMAGES / "Dockerfile").read_text(encoding="utf-8")
STAGES = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.M)[1:]
FINAL = ("server", "pool", "worker", "database", "backup", "object-store")
SCRIPTS = sorted(
    [*files.IMAGES.glob("*.sh"), *files.COMPOSE.glob("*.sh"), files.ROOT / "infra/install-system-packages.sh"]
)


def lint(name: str, *arguments: str) -> None:
    program = files.tool(name)
    if not program:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def stage(name: str) -> str:
    [found] = [text for text in STAGES if re.match(rf"FROM \S+ AS {name}\n", text)]
    return found


def test_hadolint_has_nothing_to_say() -> None:
    lint("hadolint", str(files.IMAGES / "Dockerfile"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    lint("shellcheck", str(script))
    assert os.access(script, os.X_OK)


def test_every_foreign_image_is_pinned_by_digest() -> None:
    names = {re.split(r"\s", text)[1] for text in STAGES}
    own = set(re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M))
    foreign = {name.strip("${}") for name in names - own}
    for name in foreign:
        assert re.search(rf"^ARG {name}=\S+:[\w.-]+@sha256:[0-9a-f]{{64}}$", DOCKERFILE, re.M), name


@pytest.mark.parametrize("name", FINAL)
def test_an_image_ends_as_a_user_without_rights_and_says_what_it_is(name: str) -> None:
    text = stage(name)
    users = re.findall(r"^USER (\d+)", text, re.M)
    assert int(users[-1]) > 0
    assert re.search(r"^HEALTHCHECK ", text, re.M)
    assert "LABEL" in text or "FROM run" in text  # which has the label of `python`
    assert "pip install" not in text and "gcc" not in text


def test_the_compose_file_builds_every_image_and_copies_exist() -> None:
    services = files.compose()["services"]
    built = {one["build"]["target"] for one in services.values() if "build" in one}
    assert built == set(FINAL) - {"pool"}, "the pool's worker is for Kubernetes"
    for one in services.values():
        assert any(other["image"] == one["image"] and "build" in other for other in services.values())
    copied = re.findall(r"^COPY (?!--from)(?:--chmod=\d+ )?(.+) \S+$", DOCKERFILE, re.M)
    assert all((files.ROOT / path).exists() for line in copied for path in line.split())
    assert "secrets" not in (files.IMAGES / "Dockerfile.dockerignore").read_text().replace("; secrets and", "")


def test_what_the_server_image_has_of_ours_stands_by_itself(tmp_path: Path) -> None:
    [line] = re.findall(r"^COPY (flows/.+) \S+$", stage("server"), re.M)
    (tmp_path / "flows").mkdir()
    for path in line.split():
        shutil.copy(files.ROOT / path, tmp_path / "flows")
    command = [sys.executable, "-c", "import flows.team_prefect as it; print(it.__file__)"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(str(tmp_path)), done.stderr
    command = files.compose()["services"]["prefect"]["command"]
    assert "flows.team_prefect:create_app" in command


def test_what_is_installed_has_its_version_in_the_constraints() -> None:
    pinned = {line.split("==")[0].lower() for line in (files.ROOT / "constraints.txt").read_text().split()}
    for file in ("server.txt", "pool.txt"):
        lines = (files.IMAGES / file).read_text(encoding="utf-8").splitlines()
        names = {re.split(r"[\[=<>]", line)[0] for line in lines if line and not line.startswith("#")}
        assert names <= pinned


def from_secrets(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(files.IMAGES / "from-secrets.sh"), *command],
        env={"PATH": os.environ["PATH"], "SECRETS": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_files_named_like_variables_become_variables(tmp_path: Path) -> None:
    (tmp_path / "PGPASSWORD").write_text("a b'c\"$d\n")
    (tmp_path / "s3-mlflow").write_text("not a variable")
    (tmp_path / "kubernetes.io").mkdir()
    code = "import json, os; print(json.dumps(dict(os.environ)))"
    seen = json.loads(from_secrets(tmp_path, "python3", "-c", code).stdout)
    assert seen["PGPASSWORD"] == "a b'c\"$d"
    assert "not a variable" not in seen.values()


def test_an_empty_secret_stops_the_container(tmp_path: Path) -> None:
    (tmp_path / "PGPASSWORD").touch()
    done = from_secrets(tmp_path, "echo", "started")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"from-secrets: {tmp_path}/PGPASSWORD is empty\n"


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([str(files.COMPOSE / "make-secrets.sh"), str(folder)], check=True)
    return {path.name: path.read_text(encoding="utf-8").rstrip("\n") for path in folder.iterdir()}


def test_secrets_are_made_once_and_are_such_as_the_stack_accepts(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    made = make_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(made) == set(files.compose()["secrets"])
    (tmp_path / "stack").mkdir()
    provide_secrets(tmp_path / "stack", {variable(name): made[name] for name in SECRETS})  # refuses weak ones
    assert make_secrets(folder) == made


def test_a_secret_that_was_deleted_is_made_anew_and_the_store_learns_it(tmp_path: Path) -> None:
    before = make_secrets(tmp_path)
    for name in ("mlflow-admin", "s3-mlflow"):
        (tmp_path / name).unlink()
    after = make_secrets(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"mlflow-admin", "s3-mlflow", "s3-identities.json"}
    identities = {one["name"]: one for one in json.loads(after["s3-identities.json"])["identities"]}
    for name in ("mlflow", "backup"):
        [credentials] = identities[name]["credentials"]
        assert f"aws_access_key_id = {credentials['accessKey']}" in after[f"s3-{name}"]
        assert f"aws_secret_access_key = {credentials['secretKey']}" in after[f"s3-{name}"]
    assert all(action.endswith(":mlflow") for action in identities["mlflow"]["actions"])
