"""Which methods a family does not carry, and for what reason: everything else must work.

Held from both sides: a method that begins to fail on a family fails its test, and so does one that no longer refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.models.families import FAMILIES

_NO_BIASES = "has no biases, so nothing would train"
_NO_ATTENTION = "does not know the attention of"

REFUSED: Mapping[str, Mapping[str, str]] = {
    "bitfit": dict.fromkeys(("llama", "mistral", "gemma", "gemma2", "gemma3_text", "qwen3", "phi3"), _NO_BIASES),
    "llama_adapter": dict.fromkeys(
        tuple(family for family in FAMILIES if family not in ("gpt2", "llama", "mistral")), _NO_ATTENTION
    ),
}
"""Kind -> family -> what the refusal says (an expression)."""
