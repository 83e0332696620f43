"""Is the folder of a registered model what was registered? Asked before anything in it runs.

`files.json` lies beside the files: who can change one can change the other. So everything that decides an answer is
also held against the digest that the registry keeps, and MLflow is told to load nothing but our one file of code.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from tasks.foundation.digests import digest_file, digest_value
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.registry.server import FILES

RECORDS, GATES = "records", "gates"
"""Folders beside a version's files: what was known when it was registered, and what its gates found. Each file there is
named by its own sha256, which a tag or the promotion log repeats; nothing loads them."""
FOLDER = "artifacts/package"
"""Where weights, tokenizer and settings lie in MLflow's folder of a model."""
SERVING = "serving.json"
"""There: how to load and ask the model."""
DESCRIPTION = "MLmodel"
_CODE = "serving_model.py"
_LOADED = {
    "loader_module": "mlflow.pyfunc.loaders.code_model",
    "model_code_path": _CODE,
    "code": None,
    "artifacts": {"package": {"path": FOLDER, "uri": FOLDER}},
}
"""What MLflow runs and hands over; another loader or path could be anybody's code, or a pickle."""
_HARMLESS = {"env", "cloudpickle_version", "python_version", "streamable"}
_BESIDE = re.compile(rf"(?:{RECORDS}|{GATES})/[0-9a-f]{{12}}\.json")
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError)
"""What reading a file raises that is not as we wrote it; UnicodeDecodeError and JSONDecodeError are ValueErrors."""


class Identity(Value):
    """All that decides what a package answers. The card is left out: it only quotes scores and times."""

    files: dict[str, str]
    """Name in the package folder -> sha256."""
    code: str
    """sha256 of the code that serves."""
    requirements: list[str]
    signature: dict[str, Any]
    example: dict[str, list[str]]

    @property
    def digest(self) -> str:
        """Two equal ones answer alike."""
        return digest_value(self)


def check_intact(model: Path, expected: str = "", listing: str = "") -> str:
    """Compare every file with `files.json`, and the whole with the digest of the version.

    Python's own caches count as added: Python would run them in place of the file that was verified.

    Args:
        model: MLflow's folder of the model.
        expected: digest of the package as the registry keeps it; without one the folder is held against itself.
        listing: sha256 of `files.json` as the registry keeps it: of every file, also of those that decide no answer.

    Returns:
        The digest of the package.

    Raises:
        IntegrityError: a file is missing, changed or added, or MLflow would load something else.
    """
    try:
        listed = listed_in(model)
        _check_files(model, listed)
        _check_loader(model)
        found = identity_in(model, listed).digest
    except _UNREADABLE as error:
        raise _broken(f"it cannot be read as a package of tuneline ({type(error).__name__}: {error})", model) from error
    if expected and found != expected:
        raise _broken(f"its digest is {found}, not {expected} as registered", model)
    if listing and digest_file(model / FILES) != listing:
        raise _broken(f"{FILES} was changed, and a file of which it tells", model)
    return found


def drop_caches(copy: Path) -> None:
    """Remove what Python left in a copy of our own: somebody has loaded the model where it is stored."""
    for cache in sorted(copy.rglob("__pycache__")):
        shutil.rmtree(cache)


def listed_in(model: Path) -> dict[str, str]:
    """Name -> sha256 of every file, as `files.json` has it."""
    listed: dict[str, str] = json.loads((model / FILES).read_text(encoding="utf-8"))
    return listed


def identity_in(model: Path, listed: dict[str, str]) -> Identity:
    """Read it back from a folder whose files are as listed."""
    head = f"{FOLDER}/"
    asked = json.loads((model / "input_example.json").read_text(encoding="utf-8"))["inputs"]
    return Identity(
        files={name.removeprefix(head): digest for name, digest in listed.items() if name.startswith(head)},
        code=listed[_CODE],
        requirements=(model / "requirements.txt").read_text(encoding="utf-8").splitlines(),
        signature=read_description(model)["signature"],
        example={name: [row[place] for row in asked["data"]] for place, name in enumerate(asked["columns"])},
    )


def read_description(model: Path) -> dict[str, Any]:
    """MLflow's own file about the model."""
    description: dict[str, Any] = yaml.safe_load((model / DESCRIPTION).read_text(encoding="utf-8"))
    return description


def _check_files(model: Path, listed: dict[str, str]) -> None:
    paths = (path for path in model.rglob("*") if path.is_symlink() or not path.is_dir())
    present = {path.relative_to(model).as_posix() for path in paths} - {FILES}
    if missing := sorted(listed.keys() - present):
        raise _broken(f"{missing[0]} is missing", model)
    if added := sorted(name for name in present - listed.keys() if not _BESIDE.fullmatch(name)):
        raise _broken(f"{added[0]} was added", model)
    for name, expected in listed.items():
        if (found := digest_file(model / name)) != expected:
            raise _broken(f"{name} was changed: sha256 {found}, not {expected}", model)


def _check_loader(model: Path) -> None:
    flavors = read_description(model)["flavors"]
    ours = flavors["python_function"]
    if set(flavors) != {"python_function"} or set(ours) - _LOADED.keys() - _HARMLESS:
        raise _broken(f"{DESCRIPTION} asks for more than tuneline writes", model)
    if {name: ours.get(name) for name in _LOADED} != _LOADED:
        raise _broken(f"{DESCRIPTION} asks for another loader, or for code of its own", model)


def _broken(what: str, model: Path) -> IntegrityError:
    fix = "Take another version, or run the experiment again: it is packaged anew"
    return IntegrityError(f"the registered model is not intact: {what}", where=str(model), fix=fix)
