"""The model and the data that tuneline makes itself. The public face of the package; torch is not imported here."""

from tasks.embedded.corpus import probe_text
from tasks.embedded.rows import TASKS, task_rows
from tasks.foundation.digests import code_digest, digest_value, library_versions

EMBEDDED_PREFIX = "embedded:"


def embedded_key() -> str:
    """sha256 of everything that decides the embedded model's bytes."""
    libraries = library_versions("torch", "tokenizers", "transformers", "safetensors")
    return digest_value({"code": code_digest("tasks.embedded"), "libraries": libraries})


__all__ = ["EMBEDDED_PREFIX", "TASKS", "embedded_key", "probe_text", "task_rows"]
