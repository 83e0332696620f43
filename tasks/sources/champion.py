"""The present champion as a candidate, so that it is asked what the challengers are asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts import ArtifactStore
from tasks.foundation.digests import digest_tree
from tasks.foundation.values import Value
from tasks.methods import Candidate
from tasks.models import BaseModel
from tasks.models.values import Quantization
from tasks.registry.registered import CHAMPION
from tasks.registry.server import PACKAGE_TAG
from tasks.sources.reference import Reference
from tasks.sources.registered import SERVING, version_folder

if TYPE_CHECKING:
    from tasks.tracking.lookup import Lookup


class FoundChampion(Value):
    """A version that can be asked."""

    version: int
    package_digest: str
    candidate: Candidate
    weights_digest: str


def champion_in(name: str, base: BaseModel, lookup: Lookup, store: ArtifactStore) -> FoundChampion | str:
    """The champion on this experiment's base; or, in words, why there is none to ask.

    Raises:
        TunelineError: the registry does not answer, or the champion's files are gone or were changed.
    """
    version = lookup.version(name, "", CHAMPION)
    if version is None:
        return "there was no champion when it was compared"
    if version.tags.get("tuneline.base_digest") != base.digest:
        return f"champion version {version.version} stands on another base model, so it was not asked"
    text = f"models:/{name}@{CHAMPION}"
    reference = Reference(kind="registered", text=text, where="registry.model", name=name, alias=CHAMPION)
    folder, version = version_folder(reference, lookup, store)
    serving: dict[str, Any] = json.loads((folder / SERVING).read_text(encoding="utf-8"))
    weights = folder / ("adapter" if serving["adapter"] else "model")
    return FoundChampion(
        version=version.version,
        package_digest=version.tags[PACKAGE_TAG],
        candidate=_candidate(serving, weights, base, f"{CHAMPION} (version {version.version})"),
        weights_digest=digest_tree(weights, [path.name for path in weights.glob("*.safetensors")]),
    )


def _candidate(serving: dict[str, Any], weights: Path, base: BaseModel, label: str) -> Candidate:
    """As it is served: in its own precision, on its own kind of base."""
    quantization = serving["quantization"]
    loaded_as = {
        "dtype": serving["dtype"],
        "attn_implementation": serving["attn_implementation"],
        "quantization": Quantization.model_validate(quantization) if quantization else None,
    }
    return Candidate(
        label=label,
        base=base.model_copy(update=loaded_as),
        method=serving["settings"] if serving["adapter"] else {"kind": "full"},
        weights=weights,
        holds="adapter" if serving["adapter"] else "model",
    )
