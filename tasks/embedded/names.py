"""Names of places: every name belongs to one split, so that a held-out row holds a name that was never trained on."""

from __future__ import annotations

from functools import cache

from tasks.embedded.draws import Draws
from tasks.embedded.language import Language, Split

_HELD_OUT = 40
"""Names of dev, and as many of test, out of 400; pretraining and the train rows use the rest."""


def names_of(language: Language, split: Split) -> tuple[str, ...]:
    """The names of a split."""
    return _split_names(language.code, language.first_names, language.second_names, language.gap)[split]


@cache
def _split_names(code: str, first: tuple[str, ...], second: tuple[str, ...], gap: str) -> dict[Split, tuple[str, ...]]:
    pairs = (f"{one}{gap}{other}" for one in first for other in second)
    names = Draws(f"names/{code}").shuffled(list(pairs))
    return {
        "dev": tuple(names[:_HELD_OUT]),
        "test": tuple(names[_HELD_OUT : 2 * _HELD_OUT]),
        "train": tuple(names[2 * _HELD_OUT :]),
    }
