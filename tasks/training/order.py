"""The order of the training rows: a pure function of lengths, seed and epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

_GROUPS_PER_POOL = 50
"""Batches that are sorted by length together: enough to save padding, few enough to stay random."""


class RowOrder(Sampler[int]):  # type: ignore[misc]
    """A seeded permutation per epoch, optionally sorted by length within pools of `50 * group` rows.

    It draws from a generator of its own and asks which epoch it is, instead of counting or sharing torch's global
    state: after a resume in the middle of an epoch it yields exactly the order of the uninterrupted run.
    """

    def __init__(self, lengths: Sequence[int], group: int, seed: int, epoch: Callable[[], int]) -> None:
        """`group`: rows per optimiser step; 0 switches grouping by length off."""
        self._lengths = lengths
        self._group = group
        self._seed = seed
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(row_order(self._lengths, self._group, self._seed, self._epoch()))


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
