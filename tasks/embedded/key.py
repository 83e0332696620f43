"""Names of what is embedded, and the key under which the base is kept."""

from __future__ import annotations

from tasks.embedded.budget import PretrainBudget
from tasks.foundation.digests import code_digest, digest_value, library_versions

EMBEDDED_PREFIX = "embedded:"
EMBEDDED_MODEL = "tiny-llama"


def embedded_key(budget: PretrainBudget | None = None) -> str:
    """sha256 of everything that decides the base's bytes on one machine: budget, code with its words, libraries."""
    return digest_value(
        {
            "budget": (budget or PretrainBudget()).model_dump(),
            "code": code_digest("tasks.embedded"),
            "libraries": library_versions("torch", "tokenizers", "transformers"),
        }
    )
