"""Get a hub model at its commit into the hub's local cache, and check it there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tasks.foundation.digests import digest_file
from tasks.foundation.errors import ConfigError, DependencyError, IntegrityError, ModelError, ResourceError, shortage
from tasks.models.resolve import CONFIG_FILES, TOKENIZER_FILES
from tasks.models.settings import ModelSettings
from tasks.models.weights import INDEX_FILE

_PATTERNS = ["adapter_config.json", *CONFIG_FILES, *TOKENIZER_FILES, "*.safetensors", INDEX_FILE]
_ANSWER_SECONDS = 10
_BLOB = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")


def fetch(settings: ModelSettings) -> Path:
    """The folder of a hub model (safetensors, JSON and tokenizer files only), downloaded where the cache lacks it.

    One short question comes first, because the download itself would retry for half a minute without a network.

    Raises:
        ConfigError: no revision.
        ResourceError: the cache's disk is full.
        DependencyError: the hub cannot be reached and the cache does not hold the model.
        ModelError: the hub has no such model or revision, or does not show it to this user.
        IntegrityError: a file in the cache is not what was downloaded.
    """
    if settings.revision is None:
        raise ConfigError(
            f"{settings.name_or_path} is a hub id without a revision: branches move",
            where="model.revision",
            allowed="the 40 hex digits of a commit",
            fix="Add model.revision (the hub shows it under Files > History)",
        )
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.errors import HTTPError as TransportError  # type: ignore[attr-defined]

    try:
        HfApi().model_info(settings.name_or_path, revision=settings.revision, timeout=_ANSWER_SECONDS)
        return _snapshot(settings, cached_only=False)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"the hub shows no {settings.name_or_path} at {settings.revision}",
            where="model",
            fix="Check id and revision; a gated model needs HF_TOKEN",
        ) from error
    except (TransportError, OSError) as error:
        if shortage(error) is not None:
            raise ResourceError(
                f"the disk is full: the model hub's cache cannot take {settings.name_or_path}",
                where=constants.HF_HUB_CACHE,
                fix="Free space, or move the cache with HF_HOME",
            ) from error
        return _from_cache(settings)


def _from_cache(settings: ModelSettings) -> Path:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return _snapshot(settings, cached_only=True)
    except LocalEntryNotFoundError as error:
        raise DependencyError(
            f"the model hub cannot be reached and its cache has no {settings.name_or_path}",
            where="model.name_or_path",
            fix="Connect, or download the model once and give its folder",
        ) from error


def _snapshot(settings: ModelSettings, *, cached_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    folder = Path(
        snapshot_download(
            settings.name_or_path,
            revision=settings.revision,
            allow_patterns=_PATTERNS,
            local_files_only=cached_only,
        )
    )
    for path in sorted(folder.rglob("*")):
        _check_blob(path)
    return folder


def _check_blob(path: Path) -> None:
    """The cache names what a file links to by its digest, as the hub told it: sha256, or git's own of small files."""
    blob = path.resolve()
    if not path.is_symlink() or not _BLOB.fullmatch(blob.name):
        return
    problem = "is gone" if not blob.exists() else "" if _digest(blob) == blob.name else "was changed or torn"
    if problem:
        raise IntegrityError(
            f"{path.name} {problem}", where=str(blob), fix=f"Remove {path} and what it links to; it is downloaded again"
        )


def _digest(blob: Path) -> str:
    if len(blob.name) == 64:
        return digest_file(blob)
    content = blob.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
