"""Version floors, with faked versions."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasks.health.check import Check
from tasks.health.versions import installed, kernels_check, library_checks, platform_checks, python_check

GOOD = {"torch": "2.13.0", "transformers": "5.23.0", "mlflow": "3.17.2", "prefect": "3.8.8", "fastapi": "0.150.0"}


def find(versions: dict[str, str], name: str) -> Check:
    return next(check for check in library_checks(versions.get) if check.name == name)


def test_the_versions_that_were_run_together_pass() -> None:
    assert all(check.ok and not check.fix for check in library_checks(GOOD.get))


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.9.1"),
        ("torch", "2.9.1+cu128"),
        ("transformers", "5.2.9"),
        ("mlflow", "3.10.1"),
        ("prefect", "3.6.19"),
        ("fastapi", "0.151.0"),
        ("torch", "not a version"),
    ],
)
def test_a_version_outside_its_range_is_refused_with_the_range_and_a_way_out(name: str, version: str) -> None:
    check = find({**GOOD, name: version}, name)
    assert not check.ok
    assert version in check.detail
    assert "needed is" in check.detail
    assert "constraints.txt" in check.fix


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("torch", "2.10.0"),
        ("torch", "2.13.0+cpu"),
        ("transformers", "5.3.0"),
        ("mlflow", "3.11.0"),
        ("prefect", "3.6.20"),
    ],
)
def test_the_first_safe_version_and_local_builds_pass(name: str, version: str) -> None:
    assert find({**GOOD, name: version}, name).ok


def test_a_missing_library_says_how_to_install_it() -> None:
    check = find({}, "torch")
    assert (check.ok, check.detail) == (False, "not installed")
    assert "pip install" in check.fix


def test_the_kernels_package_must_be_absent() -> None:
    assert kernels_check({}.get).ok
    present = kernels_check({"kernels": "0.4"}.get)
    assert not present.ok
    assert present.fix == "Run: pip uninstall kernels"


def test_an_old_python_is_refused() -> None:
    assert python_check((3, 11, 0)).ok
    assert not python_check((3, 10, 14)).ok


def test_linux_only_libraries_are_missed_on_linux_alone() -> None:
    assert not any(check.ok for check in platform_checks({}.get, "linux"))
    on_a_mac = platform_checks({}.get, "darwin")
    assert all(check.ok for check in on_a_mac)
    assert "not made for darwin: no qlora" in on_a_mac[0].detail


def test_an_installed_distribution_is_found_by_its_metadata() -> None:
    assert installed("pydantic")
    assert installed("no-such-distribution") is None


def test_looking_at_everything_imports_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys; from tasks.health import checks; checks({});"
        "print(sorted({'torch', 'transformers', 'mlflow', 'prefect', 'fastapi'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
