"""Get a hub model at its commit into the hub's local cache."""

from __future__ import annotations

from pathlib import Path

from tasks.foundation.errors import ConfigError, DependencyError, ModelError
from tasks.models.resolve import CONFIG_FILES, TOKENIZER_FILES
from tasks.models.settings import ModelSettings
from tasks.models.weights import INDEX_FILE

_PATTERNS = [*CONFIG_FILES, *TOKENIZER_FILES, "*.safetensors", INDEX_FILE]
_ANSWER_SECONDS = 10


def fetch(settings: ModelSettings) -> Path:
    """The folder of a hub model (safetensors, JSON and tokenizer files only), downloaded where the cache lacks it.

    One short question comes first, because the download itself would retry for half a minute without a network.

    Raises:
        ConfigError: no revision.
        DependencyError: the hub cannot be reached and the cache does not hold the model.
        ModelError: the hub has no such model or revision, or does not show it to this user.
    """
    if settings.revision is None:
        raise ConfigError(
            f"{settings.name_or_path} is a hub id without a revision: branches move",
            where="model.revision",
            allowed="the 40 hex digits of a commit",
            fix="Add model.revision (the hub shows it under Files > History)",
        )
    from huggingface_hub import HfApi
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
    except (TransportError, OSError):
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

    return Path(
        snapshot_download(
            settings.name_or_path,
            revision=settings.revision,
            allow_patterns=_PATTERNS,
            local_files_only=cached_only,
        )
    )
