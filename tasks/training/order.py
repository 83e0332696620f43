"""The order of the training rows: a pure function of lengths, seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

NOBODY = -1
"""Stands for a row where there is none left for a rank."""
_GROUPS_PER_POOL = 50
"""Batches that are sorted by length together: enough to save padding, few enough to stay random."""


class RowOrder(Sampler[int]):  # type: ignore[misc]
    """A seeded permutation per epoch, optionally sorted by length within pools of `50 * group` rows.

    It draws from a generator of its own and asks which epoch it is, instead of counting or sharing torch's global
    state: after a resume in the middle of an epoch it yields exactly the order of the uninterrupted run.
    """

    def __init__(self, lengths: Sequence[int], groups: tuple[int, int], seed: int, epoch: Callable[[], int]) -> None:
        """`groups`: rows per optimiser step (0 switches grouping by length off), and per micro-step of all ranks.

        The last micro-step is filled up with `NOBODY`, so that every rank gets as many batches as the others.
        """
        self._lengths = lengths
        self._group, self._micro_step = groups
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths) + self._missing

    def __iter__(self) -> Iterator[int]:
        yield from row_order(self._lengths, self._group, self._seed, self._epoch())
        yield from repeat(NOBODY, self._missing)

    @property
    def _missing(self) -> int:
        return -len(self._lengths) % self._micro_step


class Rows(Dataset[Any]):  # type: ignore[misc]
    """Rows of a dataset, some of which may be nobody's: a batch of these alone is a filler."""

    def __init__(self, rows: Dataset[Any]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, numbers: Sequence[int]) -> list[Any]:
        """The rows of a batch."""
        real = [number for number in numbers if number != NOBODY]
        return list(self._rows.__getitems__(real)) if real else []


def row_order(lengths: Sequence[int], group: int, seed: int, epoch: int) -> list[int]:
    """Indices of all rows, each once."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    shuffled: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
    if not group:
        return shuffled
    pool = group * _GROUPS_PER_POOL
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), pool):
        ordered = sorted(shuffled[start : start + pool], key=lambda row: lengths[row], reverse=True)
        batches += [ordered[i : i + group] for i in range(0, len(ordered), group)]
    full = [batch for batch in batches if len(batch) == group]
    partial = [batch for batch in batches if len(batch) < group]
    mixed = [full[i] for i in torch.randperm(len(full), generator=generator).tolist()]
    return [row for batch in mixed + partial for row in batch]
