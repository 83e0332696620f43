"""Secrets: generated once, kept for the owner alone, and never weak."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError
from tasks.services.catalogue import SECRETS
from tasks.services.passwords import masked, provide_secrets, read_secrets, variable

GOOD = "kX9-vT2_mQ7zR4"


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """As the command line sets it."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def test_all_are_generated_at_the_first_start_and_kept_at_the_second(tmp_path: Path) -> None:
    first = provide_secrets(tmp_path, {})

    assert provide_secrets(tmp_path, {}) == first == read_secrets(tmp_path)
    assert set(first) == set(SECRETS)
    assert len(set(first.values())) == len(SECRETS)
    assert all(len(value) >= 43 for value in first.values())
    assert first["prefect-auth"].startswith("admin:")
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_one_of_ones_own_is_taken_and_kept(tmp_path: Path) -> None:
    given = {variable("mlflow-admin"): GOOD, variable("prefect-auth"): f"team:{GOOD}"}

    taken = provide_secrets(tmp_path, given)

    assert (taken["mlflow-admin"], taken["prefect-auth"]) == (GOOD, f"team:{GOOD}")
    assert provide_secrets(tmp_path, {}) == taken


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mlflow-admin", ""),
        ("mlflow-admin", "password1234"),
        ("mlflow-admin", "Sh0rt"),
        ("mlflow-admin", "aaaaaaaaaaaaaaaa"),
        ("mlflow-admin", "two words of mine"),
        ("mlflow-admin", "schlüssel-wörter"),
        ("postgres", "postgres-123"),
        ("prefect-auth", GOOD),
        ("prefect-auth", "admin:"),
        ("prefect-auth", "admin:changeme1234"),
        ("prefect-auth", f":{GOOD}"),
    ],
)
def test_a_weak_one_is_refused_without_saying_it(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        provide_secrets(tmp_path, {variable(name): value})

    assert variable(name) in str(refused.value)
    assert not value or value not in str(refused.value)
    assert not (tmp_path / name).exists()


def test_a_weak_one_in_a_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "mlflow-admin").write_text("admin\n")

    with pytest.raises(ConfigError, match=r"mlflow-admin: .* too short"):
        provide_secrets(tmp_path, {})


def test_another_one_than_the_stack_was_made_with_is_refused(tmp_path: Path) -> None:
    provide_secrets(tmp_path, {})

    with pytest.raises(ConfigError, match="not what the stack was made with"):
        provide_secrets(tmp_path, {variable("mlflow-admin"): GOOD})


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    provide_secrets(tmp_path, {})
    (tmp_path / "mlflow-key").chmod(0o640)

    with pytest.raises(ConfigError, match="others can read"):
        read_secrets(tmp_path)


def test_a_text_that_holds_one_is_masked_with_and_without_its_user() -> None:
    assert masked(f"a {GOOD} b admin:{GOOD} c", {"prefect-auth": f"admin:{GOOD}"}) == "a *** b *** c"
