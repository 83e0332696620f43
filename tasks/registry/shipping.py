"""The source that puts an adapter of ours on its base where tuneline is not installed.

PEFT loads its own adapters anywhere. What only a method of ours can load travels with that method's module and all that
it imports from this project, some dozen small files, in a package that is named by their digest: it meets neither an
installed tuneline, nor another version of itself, nor somebody else's `tasks`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.foundation.digests import digest_file, digest_value
from tasks.foundation.imports import ROOT, imported_by
from tasks.methods import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Method, PeftMethod, adapter_files, method_code
from tasks.models.weights import read_json

CODE_FOLDER = "code"
_OURS = re.compile(rf"\b{ROOT}(?=\.[a-z_])")


def is_plain_peft(method: Method, weights: Path) -> bool:
    """True where PEFT alone loads the adapter: its layout, its type, and nothing that the method does on top."""
    files = set(adapter_files(weights))
    inherits = isinstance(method, PeftMethod) and type(method).load is PeftMethod.load
    return (
        inherits and files == {ADAPTER_CONFIG, ADAPTER_WEIGHTS} and "peft_type" in read_json(weights / ADAPTER_CONFIG)
    )


def ship(method: Method, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the method's code below `folder`; what the served model needs to know to use it.

    Args:
        settings: of the method, without references to this machine.
    """
    files = imported_by(type(method).__module__, *method_code(settings))
    package = f"tuneline_{digest_value({name: digest_file(path) for name, path in files.items()})[:12]}"
    for name, path in files.items():
        inside = name.split(".")[1:] + (["__init__"] if path.name == "__init__.py" else [])
        target = folder.joinpath(CODE_FOLDER, package, *inside).with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_OURS.sub(package, path.read_text(encoding="utf-8")), encoding="utf-8")
    module = type(method).__module__.replace(ROOT, package, 1)
    return {"package": package, "module": module, "class": type(method).__name__, "settings": settings}
