"""The base model: where it is and in which precision it is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tasks.foundation.values import Settings
from tasks.models.values import Quantization


class LearnedTokens(Settings):
    """Tokens that are learnt from text: what the base's tokenizer splits, the most frequent first."""

    size: int = Field(gt=0)
    """How many at most; fewer where the text repeats less."""
    min_count: int = Field(default=2, gt=0)
    """How often a token has to occur to be worth a row."""


class VocabularyExtension(Settings):
    """`model.extend_vocabulary`: which tokens the base gets besides its own, and how their rows are trained.

    Exactly one of `tokens`, `file`, `train` and `tokenizer` says which. The extended base is made once, before rows
    become tokens, and every method starts from it. Its new rows begin at the mean of the rows of the pieces that they
    replace; then they alone train, on the causal loss, while every other number of the base stays as it is.
    """

    tokens: tuple[str, ...] | None = Field(default=None, min_length=1)
    """These, as they stand in text; a space in front belongs to the token."""
    file: str | None = None
    """A text file with one token per line."""
    train: LearnedTokens | None = None
    """Learn them from `text`."""
    tokenizer: str | None = None
    """A folder with another tokenizer.json: whatever it knows and the base does not."""
    text: str | tuple[str, ...] | None = None
    """Text files (each line is a text) to learn from and to train the rows on; absent, the training rows of `data`."""
    steps: int = Field(default=200, ge=0)
    """Optimiser steps for the new rows; 0 leaves them at the mean of their pieces."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate; absent, 0.05 of the root mean square of the base's embedding."""
    batch_size: int = Field(default=8, gt=0)
    """Sequences of a step."""
    max_length: int = Field(default=256, gt=1)
    """Tokens of a sequence, at most the model's context."""
    seed: int = 0
    """Decides the order of the sequences."""

    @model_validator(mode="after")
    def _one_way(self) -> VocabularyExtension:
        ways = ("tokens", "file", "train", "tokenizer")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are" if given else "none of them is"
            raise ValueError(f"one of {', '.join(ways)} says which tokens are new, and {found} given")
        if any(not token.strip() for token in self.tokens or ()):
            raise ValueError("tokens: a token of nothing but spaces stands for nothing")
        if self.text == ():
            raise ValueError("text: names no file. Leave it out to take the training rows of data")
        return self


class ModelSettings(Settings):
    """Section `model`."""

    name_or_path: str
    """A folder, a hub id (with `revision`), or `embedded:tiny-llama`, the model that tuneline makes itself."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of a hub model, 40 hex digits: names and branches move, commits do not."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the base; `auto` is the checkpoint's own on an accelerator and float32 on CPU."""
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention kernels."""
    quantization: Literal["nf4", "fp4", "int8"] | None = None
    """Hold the base's linear layers in 4 (nf4, fp4) or 8 bits while methods train beside it; files stay as they are."""
    extend_vocabulary: VocabularyExtension | None = None
    """Tokens that the base gets besides its own, with rows trained for them."""

    def quantized(self) -> Quantization | None:
        """Every choice made: the library's own defaults would be fp4 without double quantisation."""
        if self.quantization is None:
            return None
        return (
            Quantization(bits=8) if self.quantization == "int8" else Quantization(bits=4, quant_type=self.quantization)
        )
