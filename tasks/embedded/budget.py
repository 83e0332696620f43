"""Settings of the pretraining: small enough for a minute of one core, large enough for copying to appear."""

from __future__ import annotations

from pydantic import Field

from tasks.foundation.values import Settings


class PretrainBudget(Settings):
    """How the embedded base is made. Tests use a smaller one; the project uses the defaults."""

    seed: int = 0
    """Seed of the weights and of the copying sequences."""
    threads: int = Field(default=1, gt=0)
    """Torch threads: part of the settings, since their number moves the last bits of a sum."""
    documents: int = Field(default=20_000, gt=0)
    """Documents of generic text; more steps than they fill read them again."""
    vocab_size: int = Field(default=1280, gt=0)
    """Tokens of the byte-level vocabulary: 256 bytes, 3 special ones, and merges."""
    hidden_size: int = Field(default=128, gt=0, multiple_of=64)
    """Multiples of 64: nf4 on CPU trains with others and then fails in generation."""
    intermediate_size: int = Field(default=256, gt=0, multiple_of=64)
    """Width of the feed-forward layers."""
    layers: int = Field(default=4, gt=0)
    """Decoder blocks; copying needs at least two."""
    heads: int = Field(default=4, gt=0)
    """Attention heads."""
    context: int = Field(default=512, gt=0)
    """`max_position_embeddings`: rows, virtual tokens and answers together."""
    learning_rate: float = Field(default=5e-3, gt=0)
    """Peak rate of both stages."""
    copy_steps: int = Field(default=60, ge=0)
    """Steps of stage 1."""
    copy_batch: int = Field(default=16, gt=0)
    """Sequences of a step of stage 1."""
    copy_length: int = Field(default=64, gt=8)
    """Tokens of a sequence of stage 1: random ones, repeated."""
    text_steps: int = Field(default=540, ge=0)
    """Steps of stage 2."""
    text_batch: int = Field(default=8, gt=0)
    """Sequences of a step of stage 2."""
    text_length: int = Field(default=128, gt=8)
    """Tokens of a sequence of stage 2."""
    kept_copies: int = Field(default=1, ge=0)
    """Sequences of random tokens repeated, as in stage 1, in each step of stage 2: otherwise copying is forgotten."""

    @property
    def steps(self) -> int:
        """Optimiser steps of both stages."""
        return self.copy_steps + self.text_steps
