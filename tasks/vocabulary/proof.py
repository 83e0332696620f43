"""The extended base is what was meant, seen from its files: nothing of what the base had has moved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from tasks.foundation.errors import IntegrityError
from tasks.models.loading import load_tokenizer
from tasks.models.values import BaseModel
from tasks.models.weights import read_header, weight_files
from tasks.vocabulary.document import first_free
from tasks.vocabulary.original import Original, backend_of, round_trips
from tasks.vocabulary.values import NewToken
from tasks.vocabulary.weights import vocabulary_tensors

_TEXTS = 1000
"""Texts that are looked at, spread over all of them."""


def prove_tokenizer(original: Original, base: BaseModel, tokens: Sequence[NewToken], texts: Sequence[str]) -> None:
    """The tokenizer that transformers loads from the folder has the new tokens and leaves other texts as they were.

    A text in which no new token occurs has the ids that it had, and what came back from decoding still does.

    Raises:
        IntegrityError: it does not hold, with the text.
    """
    new = load_tokenizer(base)
    first, backend = first_free(original.document), backend_of(new)
    ids = list(range(first, first + len(tokens)))
    if new.convert_ids_to_tokens(ids) != [token.piece for token in tokens] or len(new) > base.facts.vocab_size:
        raise IntegrityError("the new tokens do not have the ids of their rows", where=str(base.path))
    for text in texts[:: max(1, len(texts) // _TEXTS)]:
        before, after = original.tokenizer(text)["input_ids"], new(text)["input_ids"]
        if before != after and max(after, default=0) < first:
            raise IntegrityError(
                f"a text without new tokens is cut in another way: {text[:80]!r}", where=str(base.path)
            )
        if round_trips(original.backend, text) and not round_trips(backend, text):
            raise IntegrityError(f"a text does not come back from its tokens: {text[:80]!r}", where=str(base.path))


def prove_rows(base: BaseModel, extended: BaseModel, first: int, count: int) -> None:
    """Every number that the base had is where it was, to the last bit; only the span of the new rows may differ.

    Raises:
        IntegrityError: one is not.
    """
    grown = set(vocabulary_tensors(base).grown)
    there = _files(extended.path)
    for name, path in _files(base.path).items():
        if name not in there:
            continue  # a tied output layer that was stored twice
        old, new = _tensor(path, name), _tensor(there[name], name)
        if name in grown:
            span = torch.ones(len(new), dtype=torch.bool)
            span[first : first + count] = False
            new, old = new[: len(old)][span[: len(old)]], old[span[: len(old)]]
        if old.dtype != new.dtype or not torch.equal(old, new):
            raise IntegrityError(f"{name} is not what it was", where=str(extended.path))


def _files(folder: Path) -> dict[str, Path]:
    return {name: folder / file for file in weight_files(folder) for name in read_header(folder / file)}


def _tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
    return tensor
