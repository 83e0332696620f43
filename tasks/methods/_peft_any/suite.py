"""A folder of experiments in the layout of PEFT's own comparison: one cell per folder.

`<type>/<name>/adapter_config.json` says how the adapter is made, `training_params.json` beside it how that one trains
(huggingface/peft, method_comparison/MetaMathQA/experiments). A folder with the latter alone is full fine-tuning there.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tasks.foundation.errors import ConfigError
from tasks.methods._peft_any.file import CONFIG_FILE, TRAINING_FILE, read_configuration, read_object
from tasks.methods._peft_any.types import is_set

log = logging.getLogger(__name__)

_TAKEN: Final = {"learning_rate": "lr", "weight_decay": "weight_decay"}
"""Our name -> theirs, inside `optimizer_kwargs`."""
_IDS: Final = {"token_indices": "tokens", "trainable_token_indices": "tokens", "cpt_token_ids": "text"}
"""Field with ids of tokens -> the setting that names tokens instead."""


def cells_of(entry: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """The settings of every cell that an entry with a `path` stands for, sorted by folder, none with a path in it.

    Raises:
        ConfigError: nothing is there, a file is wrong, or a pattern of `leave_out` matches nothing.
    """
    path = Path(str(entry["path"]))
    if path.is_file() or (path / CONFIG_FILE).is_file():
        return [_cell(entry, path if path.is_file() else path / CONFIG_FILE, None)]
    folders = _folders(path, where)
    kept = _without(folders, _patterns(entry.get("leave_out")), where)
    cells = [_cell(entry, folder / CONFIG_FILE, name) for name, folder in kept.items()]
    log.info("%s: %d cells: %s", path, len(cells), ", ".join(kept))
    return cells


def _folders(path: Path, where: str) -> dict[str, Path]:
    """Relative name -> folder with an experiment."""
    files = [file for name in (CONFIG_FILE, TRAINING_FILE) for file in path.rglob(name)]
    found = sorted({file.parent for file in files}, key=lambda folder: folder.relative_to(path).as_posix())
    if not found:
        what = f"no {CONFIG_FILE} is there or below it" if path.exists() else "does not exist"
        raise ConfigError(f"{path}: {what}", where=where, fix=f"Name an {CONFIG_FILE}, or a folder that holds some")
    return {folder.relative_to(path).as_posix(): folder for folder in found}


def _patterns(value: object) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []


def _without(folders: Mapping[str, Path], patterns: Sequence[str], where: str) -> dict[str, Path]:
    for pattern in patterns:
        if not fnmatch.filter(folders, pattern):
            raise ConfigError(
                f"leave_out: {pattern!r} matches none of the {len(folders)} folders",
                where=where,
                allowed=", ".join(list(folders)[:8]),
                fix="Correct the pattern, or remove it",
            )
    kept = {name: at for name, at in folders.items() if not any(fnmatch.fnmatch(name, each) for each in patterns)}
    if not kept:
        raise ConfigError("leave_out leaves nothing", where=where, fix="Remove a pattern")
    return kept


def _cell(entry: Mapping[str, Any], file: Path, name: str | None) -> dict[str, Any]:
    """One entry: what the user wrote wins over what the folder says."""
    own = {key: value for key, value in entry.items() if key not in ("path", "leave_out")}
    beside = file.parent / TRAINING_FILE
    told = dict(_training(beside)) if beside.is_file() else {}
    if name is not None:
        told["name"] = f"{own.pop('name')} {name}" if own.get("name") else name
    if file.is_file():
        config = _read(file, name)
        _say_whose_ids(config, told | own, file)
        return told | {"config": config} | own
    log.info("%s has no %s: full fine-tuning, as there", file.parent, CONFIG_FILE)
    return told | {key: own[key] for key in _TAKEN | {"max_steps": ""} if key in own} | {"kind": "full"}


def _say_whose_ids(config: Mapping[str, Any], beside: Mapping[str, Any], file: Path) -> None:
    """Ids mean what they say for the tokenizer of the file's own base alone, and no file holds that."""
    for field, instead in _IDS.items():
        if is_set(config, field) and not beside.get(instead):
            said = "%s: %s are taken as they are: right for the tokenizer it was made with; `%s` says it for any"
            log.warning(said, file, field, instead)


def _read(file: Path, name: str | None) -> dict[str, Any]:
    try:
        return read_configuration(file)
    except ConfigError as error:
        if name is None:
            raise
        fix = f"{error.fix} Or go on without it: leave_out: [{name}]".strip()
        raise ConfigError(error.what, where=error.where, allowed=error.allowed, fix=fix) from error


def _training(file: Path) -> Iterator[tuple[str, Any]]:
    """learning_rate, weight_decay, max_steps and text; every other key is named in one warning as not taken over."""
    params = read_object(file)
    optimizer = params.pop("optimizer_kwargs", {})
    if not isinstance(optimizer, dict):
        raise ConfigError("optimizer_kwargs is no object", where=str(file), fix='Write {"lr": …}')
    for ours, theirs in _TAKEN.items():
        if theirs in optimizer:
            yield ours, _number(optimizer.pop(theirs), f"optimizer_kwargs.{theirs}", file)
    if isinstance(params.get("init_kv_cache_prefix"), str):
        yield "text", params.pop("init_kv_cache_prefix")
    if "max_steps" in params:
        yield "max_steps", int(_number(params.pop("max_steps"), "max_steps", file))
    if left := sorted([*params, *(f"optimizer_kwargs.{key}" for key in optimizer)]):
        log.warning("%s: not taken over, the experiment's own sections decide: %s", file, ", ".join(left))


def _number(value: object, key: str, file: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key}: {value!r} is no number", where=str(file), fix="Repair it")
    return value
