"""Small results of earlier runs, for methods that start from one, learn from one or compose several.

A case names them by a key of `MADE_BY`, as a user would name a run; they are trained on the case's own base when the
first case asks for them, and kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.foundation.digests import digest_tree
from tasks.methods import Method, Source, parse_method
from tasks.models import BaseModel
from tests.models.tiny import tiny_base, token_batch

MADE_BY: Mapping[str, Mapping[str, Any]] = {
    "one": {"kind": "adapter", "variant": "pfeiffer", "bottleneck_size": 4},
    "two": {"kind": "adapter", "variant": "pfeiffer", "bottleneck_size": 8},
    "a lora": {"kind": "lora", "r": 4},
    "a model": {"kind": "full"},
}
"""What a case may write -> the method that makes it. Each is trained from a seed of its own, the first on the toy that
cases learn, the others on something else."""
_STEPS = 10


def sources_of(method: Method, base: BaseModel) -> dict[str, Source]:
    """All that the method's settings ask for, made where it is not there yet."""
    return {name: _source(reference, base) for name, reference in method.sources().items()}


def _source(reference: str, base: BaseModel) -> Source:
    maker = parse_method(MADE_BY[reference])
    folder = base.path.parent / f"{base.path.name}-sources" / reference
    if not folder.is_dir():
        _make(maker, base, folder, seed=1 + list(MADE_BY).index(reference))
    names = sorted(path.name for path in folder.iterdir())
    return Source(
        reference=reference,
        path=folder,
        digest=digest_tree(folder, names),
        holds=maker.holds,
        method=maker.model_dump(mode="json"),
        base_digest=base.digest,
        model=tiny_base(folder) if maker.holds == "model" else None,
    )


def _make(maker: Method, base: BaseModel, folder: Path, seed: int) -> None:
    from tests.methods.cases import attached, features, fit, save, toy  # they use sources themselves

    method, model = attached(maker.model_dump(), base, seed=seed)
    fit(method, model, features(toy() if seed == 1 else token_batch()), [1e-2] * _STEPS)
    folder.mkdir(parents=True)
    save(method, model, folder)
