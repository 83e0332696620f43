"""Merging and the proof of it."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.values import Settings


class MergeSettings(Settings):
    """Section `merge`."""

    enabled: bool = True
    """False: evaluate and register base + adapter."""
    rows: int = Field(default=8, gt=0)
    """Evaluation rows on which the logits are compared."""
    tolerance: float | None = Field(default=None, gt=0)
    """Largest accepted difference of two logits, relative to the largest one; when absent 1e-5 in float32, 2e-2 in
    16-bit."""
    max_shard_bytes: int = Field(default=4_000_000_000, gt=0)
    """Size of a shard of the merged model at most."""
