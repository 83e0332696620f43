"""The base model: where it is and in which precision it is used."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.foundation.values import Settings


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
