"""Rows of a hub data set at a pinned commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.data.readers import Found, RawRecord
from tasks.data.sources import Source
from tasks.foundation.errors import DataError, DependencyError, ResourceError, shortage


def read_hub(source: Source) -> Iterator[Found]:
    """One record per row of the split; its number stands for the line.

    Raises:
        DataError: there is no such data set, commit or split.
        ResourceError: the cache's disk is full.
        DependencyError: the hub cannot be reached and the commit is not in the local cache.
    """
    for number, fields in enumerate(_load(source), start=1):
        yield RawRecord(number, dict(fields))


def _load(source: Source) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    where = f"{source.name}@{source.revision[:12]}"
    try:
        return datasets.load_dataset(source.name, revision=source.revision, split=source.split)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(_first_line(error), where=where, fix="Check name and commit, and your access to it") from error
    except (ConnectionError, OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise DependencyError(
            f"the hub cannot be reached: {_first_line(error)}",
            where=where,
            fix="Connect, or point data.train and data.eval at local files",
        ) from error
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        if shortage(error) is not None:
            cache = str(datasets.config.HF_DATASETS_CACHE)
            fix = "Free space, or move the cache with HF_HOME"
            raise ResourceError(f"the disk is full: the cache cannot take {where}", where=cache, fix=fix) from error
        if isinstance(error, OSError):
            raise
        raise DataError(
            _first_line(error), where=where, fix="Check data.split, or name the files themselves"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
