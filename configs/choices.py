"""What there is to choose from in a form: experiments, methods, bases and data, as they lie here now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from configs.checks import EMBEDDED_MODEL
from configs.document import read_value
from configs.loading import load_experiment
from configs.schema import method_kinds
from tasks.embedded import EMBEDDED_PREFIX, TASKS
from tasks.foundation.errors import ConfigError
from tasks.foundation.values import Value

SHIPPED_PREFIX: Final = "shipped:"
_SHIPPED = Path(__file__).parent / "experiments"
_DATA_SUFFIXES = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt"})
_LIST = Path("experiments") / "choices.yaml"
"""More bases and data than files here show: those of a hub, or of another disk."""


class Choices(Value):
    """The choices of each argument."""

    experiment: tuple[str, ...]
    """`experiments/*.yaml` of the working directory, then those that come with tuneline."""
    method: tuple[str, ...]
    base: tuple[str, ...]
    """What tuneline makes itself, folders in `models/`, and those of the list."""
    data: tuple[str, ...]
    """What tuneline makes itself, files in `data/`, and those of the list."""


class _Listed(Value):
    """experiments/choices.yaml."""

    bases: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def choices(folder: Path) -> Choices:
    """What a folder, tuneline itself and the folder's list offer.

    Raises:
        ConfigError: the list is wrong.
    """
    listed = _read_list(folder / _LIST)
    bases = sorted(path.parent.relative_to(folder).as_posix() for path in folder.glob("models/*/config.json"))
    data = sorted(path for path in folder.glob("data/*") if path.suffix in _DATA_SUFFIXES)
    return Choices(
        experiment=tuple(_experiments(folder)),
        method=tuple(method_kinds()),
        base=_distinct([EMBEDDED_MODEL, *bases, *listed.bases]),
        data=_distinct(
            [*(f"{EMBEDDED_PREFIX}{task}" for task in TASKS), *_names(data, folder), *listed.data],
        ),
    )


def experiment_file(name: str) -> Path:
    """The file of an experiment: a path, or `shipped:NAME` for one that comes with tuneline."""
    if not name.startswith(SHIPPED_PREFIX):
        return Path(name)
    return _SHIPPED / f"{Path(name.removeprefix(SHIPPED_PREFIX)).name}.yaml"


def _experiments(folder: Path) -> Iterator[str]:
    """Those that can be read as they are: the template, for one, has to be filled in first."""
    own = [path for path in sorted((folder / "experiments").glob("*.yaml")) if path != folder / _LIST]
    yield from _names((path for path in own if _is_whole(path)), folder)
    yield from (f"{SHIPPED_PREFIX}{path.stem}" for path in sorted(_SHIPPED.glob("*.yaml")) if _is_whole(path))


def _is_whole(path: Path) -> bool:
    try:
        load_experiment(path)
    except ConfigError:
        return False
    return True


def _read_list(path: Path) -> _Listed:
    if not path.is_file():
        return _Listed()
    entries = read_value(path.read_text(encoding="utf-8"), str(path))
    try:
        return _Listed.model_validate(entries or {})
    except ValueError as error:
        allowed = "bases: and data:, each a list of texts"
        raise ConfigError("is no list of choices", where=str(path), allowed=allowed) from error


def _names(paths: Iterable[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
