from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.foundation.digests import digest_file
from tasks.foundation.errors import ConfigError, DependencyError, IntegrityError
from tasks.models import ModelSettings, fetch, resolve_base
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.ports import refusing_port

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A hub at a closed port, with an empty cache (the result)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with refusing_port() as port:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        yield tmp_path / "hub"


def test_a_hub_id_needs_a_commit() -> None:
    with pytest.raises(ConfigError, match="40 hex"):
        fetch(ModelSettings(name_or_path="someone/model"))


@pytest.mark.timeout(120)
def test_row_35_an_unreachable_hub_is_said_at_once(unreachable_hub: Path) -> None:
    with pytest.raises(DependencyError, match="cannot be reached") as caught:
        fetch(ModelSettings(name_or_path="someone/model", revision=COMMIT))
    assert caught.value.exit_code == 21


def test_row_35_an_unreachable_hub_does_not_matter_where_the_cache_holds_the_commit(
    unreachable_hub: Path, tmp_path: Path
) -> None:
    made = write_tiny_llama(tmp_path / "made")
    shutil.copytree(made, unreachable_hub / "models--someone--model" / "snapshots" / COMMIT)
    settings = ModelSettings(name_or_path="someone/model", revision=COMMIT)
    base = resolve_base(settings, fetch(settings))
    assert (base.name, base.revision) == ("someone/model", COMMIT)
    assert base.digest == tiny_base(made).digest


def cached(hub: Path, made: Path) -> Path:
    """A snapshot as the hub's cache keeps one: links to files that are named by their digests."""
    model = hub / "models--someone--model"
    snapshot = model / "snapshots" / COMMIT
    for folder in (snapshot, model / "blobs"):
        folder.mkdir(parents=True)
    for path in made.iterdir():
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        blob = model / "blobs" / (digest_file(path) if path.suffix == ".safetensors" else git)
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["flip", "tear", "delete"])
def test_row_24_a_damaged_file_in_the_hubs_cache_is_refused_with_its_place(
    unreachable_hub: Path, tmp_path: Path, name: str, damage: str
) -> None:
    snapshot = cached(unreachable_hub, write_tiny_llama(tmp_path / "made"))
    settings = ModelSettings(name_or_path="someone/model", revision=COMMIT)
    assert fetch(settings) == snapshot
    blob = (snapshot / name).resolve()
    content = blob.read_bytes()
    if damage == "delete":
        blob.unlink()
    else:
        blob.write_bytes(
            content[:-20] if damage == "tear" else content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
        )
    with pytest.raises(IntegrityError, match=f"{blob.name}: {name} (is gone|was changed or torn)") as caught:
        fetch(settings)
    assert caught.value.exit_code == 40
