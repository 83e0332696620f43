"""Which rows are used. Every choice hangs on the rows' content alone, never on the order in which they were read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

from tasks.data.rows import content_key, prompt_key
from tasks.data.values import EvalRow, Row

_BITS = 64
"""So many bits of a key decide a row's side."""


def distinct(rows: Iterable[Row], seen: set[str]) -> list[Row]:
    """The first row of each id that is not in `seen`; `seen` then holds them too."""
    kept: list[Row] = []
    for row in rows:
        if row.id not in seen:
            seen.add(row.id)
            kept.append(row)
    return kept


def is_held_out(row: Row, fraction: float) -> bool:
    """The row's side of the split: of its prompt's content alone, so that added rows move none, and rows that ask the
    same stand on the same side."""
    return int(prompt_key(row)[: _BITS // 4], 16) < fraction * (1 << _BITS)


def leaked_ids(train: Iterable[Row], evaluation: Iterable[Row]) -> set[str]:
    """Ids of training rows that are evaluation rows too: by id, or by saying the same in another format."""
    ids = {row.id for row in evaluation}
    contents = {content_key(row) for row in evaluation}
    return {row.id for row in train if row.id in ids or content_key(row) in contents}


def in_order(rows: Iterable[Row], seed: int) -> list[Row]:
    """Rows by sha256 of seed and id: a shuffle that a reordered file does not change."""
    return sorted(rows, key=lambda row: hashlib.sha256(f"{seed}:{row.id}".encode()).digest())


def choose(groups: Sequence[Sequence[Row]], weights: Sequence[float | None], limit: int | None, seed: int) -> list[Row]:
    """The rows that are used, in order; of each group the first ones of its order.

    Without any weight all rows, otherwise as many as there can be with the shares held and no row repeated; `limit`
    rows at most either way.
    """
    if all(weight is None for weight in weights):
        return in_order((row for group in groups for row in group), seed)[:limit]
    counts = shares([len(group) for group in groups], [1.0 if weight is None else weight for weight in weights], limit)
    drawn = (in_order(group, seed)[:count] for group, count in zip(groups, counts, strict=True))
    return in_order((row for group in drawn for row in group), seed)


def shares(sizes: Sequence[int], weights: Sequence[float], limit: int | None) -> list[int]:
    """Rows of each group: the largest total that holds the weights' shares, rounded by largest remainders."""
    whole = sum(map(Fraction, weights), Fraction())
    parts = [Fraction(weight) / whole for weight in weights]
    largest = min(int(size / part) for size, part in zip(sizes, parts, strict=True))
    total = largest if limit is None else min(largest, limit)
    exact = [total * part for part in parts]
    counts = [int(count) for count in exact]
    by_remainder = sorted(range(len(parts)), key=lambda index: (counts[index] - exact[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def with_references(chosen: Iterable[Row], every: Iterable[Row]) -> list[EvalRow]:
    """Evaluation rows with their own answer and then every other distinct answer to the same prompt among `every`."""
    answers: dict[object, list[str]] = {}
    for row in in_order(every, 0):
        known = answers.setdefault(_asked(row), [])
        if row.answer not in known:
            known.append(row.answer)
    return [
        EvalRow(
            id=row.id,
            turns=row.turns,
            text=row.text,
            source=row.source,
            references=(row.answer, *(other for other in answers[_asked(row)] if other != row.answer)),
        )
        for row in chosen
    ]


def _asked(row: Row) -> object:
    """Raw text asks nothing: each has itself alone for a reference."""
    return tuple((turn.role, turn.content) for turn in row.prompt) if row.turns else row.id
