"""A file and overrides become an experiment, or errors that name file, line and key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.document import Document, KeyPath, read_document
from configs.expansion import expanded
from configs.experiment import NAME_LENGTH, Experiment, with_environment
from configs.explain import explain
from configs.overrides import apply_overrides
from configs.wording import shown
from tasks.foundation.errors import ConfigError

_PLACEHOLDER = re.compile(r"<fill in (.+)>", re.DOTALL)
"""What shipped experiments hold where only the user knows the value."""


class InvalidExperimentError(ConfigError):
    """The first problem in words; `details` holds every one of them."""

    def __init__(self, details: Sequence[ConfigError]) -> None:
        first, more = details[0], len(details) - 1
        fix = first.fix
        if more:
            ending = "" if not fix or fix.endswith((".", "?")) else "."
            fix = f"{fix}{ending} ({more} more problem{'s' * (more > 1)}: `tuneline validate` lists all)"
        super().__init__(first.what, where=first.where, allowed=first.allowed, fix=fix)
        self.details = tuple(details)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.details,))


def load_experiment(
    path: Path, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Experiment:
    """Read, override, expand, check. Nothing but the file and those that its methods name is looked at: no data, no
    model (see `configs.checks`).

    Args:
        path: the YAML file.
        overrides: `key=value`, in order; the later one wins.
        environment: MLFLOW_TRACKING_URI decides where an experiment that sets none is recorded.

    Raises:
        ConfigError: what is wrong with the file or with an override; an `InvalidExperimentError` when it is the
            experiment itself, with all problems in `details`.
    """
    return experiment_of(read_document(path), overrides, environment)


def experiment_of(
    read: Document, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Experiment:
    """Like `load_experiment`, of a document that was read already, or that no file holds."""
    document = expanded(apply_overrides(read, overrides))
    if document.data.get("name") is None:
        document.data["name"] = name_from(Path(document.file))
    placeholders = dict(_placeholders(document.data))
    problems = [_unfilled(document, key, words) for key, words in placeholders.items()]
    try:
        experiment = Experiment.model_validate(document.data)
    except ValidationError as error:
        unfilled = {problem.where for problem in problems}
        problems += [problem for problem in explain(error, Experiment, document) if problem.where not in unfilled]
    else:
        problems += _misread(document, experiment)
    if problems:
        raise InvalidExperimentError(problems)
    return with_environment(experiment, environment)


def name_from(path: Path) -> str:
    """The file's name without its suffix, in the letters that a name may have."""
    stem = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("._-")
    return stem[:NAME_LENGTH] or "experiment"


def _leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _leaves(part, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, part in enumerate(value):
            yield from _leaves(part, (*path, index))
    else:
        yield path, value


def _placeholders(data: Any) -> Iterator[tuple[KeyPath, str]]:
    for path, value in _leaves(data):
        match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
        if match:
            yield path, match[1]


def _unfilled(document: Document, path: KeyPath, words: str) -> ConfigError:
    return ConfigError("is not filled in", where=document.where(path), fix=f"Fill in {shown(words)[1:-1]}")


def _misread(document: Document, experiment: Experiment) -> list[ConfigError]:
    """`true` where a number is wanted: pydantic would read it as 1."""
    read = dict(_leaves(experiment.model_dump()))
    return [
        ConfigError(f"{shown(value)} does not fit", where=document.where(path), allowed="a number")
        for path, value in _leaves(document.data)
        if isinstance(value, bool) and path in read and not isinstance(read[path], bool)
    ]
