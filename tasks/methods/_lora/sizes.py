"""Sizes in which one elastic adapter can be served. No torch: experiments are checked with it."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """The sub-adapter of rank k on the n topmost blocks: rows A[:k] and columns B[:, :k], at the largest's scale."""

    rank: int
    depth: int | None = None
    """Blocks from the top that carry adapters; None for all."""

    @property
    def name(self) -> str:
        """`r8`, or `r8-d6`."""
        return f"r{self.rank}" if self.depth is None else f"r{self.rank}-d{self.depth}"

    @property
    def weight(self) -> int:
        """In proportion to its parameters, among sizes of one adapter."""
        return self.rank * (self.depth or 1)
