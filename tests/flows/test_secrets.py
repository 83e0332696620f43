"""No password comes to rest where Prefect, a process list or a terminal shows it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from flows.parts import load_settings
from tasks.foundation.errors import ConfigError
from tests.flows.worlds import started, tuneline, write_world
from tests.launch.worlds import wait_until
from tests.ports import free_port

SECRET = "s3cret-word"  # noqa: S105


@pytest.mark.parametrize("uri", [f"http://ann:{SECRET}@127.0.0.1:9", f"postgresql://ann:{SECRET}@db/x"])
def test_an_override_with_a_password_never_reaches_prefect(tmp_path: Path, uri: str) -> None:
    write_world(tmp_path)
    done = tuneline(tmp_path, "run", "toy.yaml", f"tracking.uri={uri}")
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1), done.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr and SECRET not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_flow_started_in_prefects_page_refuses_it_as_well(tmp_path: Path) -> None:
    write_world(tmp_path)
    with pytest.raises(ConfigError, match=r"tracking\.uri: .*MLFLOW_TRACKING_URI"):
        load_settings(str(tmp_path / "toy.yaml"), {"tracking": {"uri": f"http://ann:{SECRET}@127.0.0.1:9"}})


def test_the_list_of_processes_does_not_show_the_password_of_the_pages_store(tmp_path: Path) -> None:
    ports = ("--mlflow-port", str(free_port()), "--prefect-port", str(free_port()))
    with started(tmp_path, "ui", *ports, "--uri", f"postgresql://ann:{SECRET}@127.0.0.1:9/x") as process:
        wait_until(lambda: any("mlflow server" in line for line in own_command_lines(process.pid)))
        shown = own_command_lines(process.pid)
    assert not any(SECRET in line for line in shown), shown


def own_command_lines(parent: int) -> list[str]:
    """Those of its descendants; one that is not yet more than a fork shows its parent's, which the user typed."""
    typed = psutil.Process(parent).cmdline()
    lines = [child.cmdline() for child in psutil.Process(parent).children(recursive=True)]
    return [" ".join(line) for line in lines if line != typed]
