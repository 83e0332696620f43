"""Content-addressed folders, committed atomically and verified before use. The public face of the package."""

from tasks.artifacts.manifest import MANIFEST, Manifest, describe, read, seal, sync, verify, write_durably
from tasks.artifacts.store import ArtifactStore
from tasks.artifacts.values import Artifact

__all__ = [
    "MANIFEST",
    "Artifact",
    "ArtifactStore",
    "Manifest",
    "describe",
    "read",
    "seal",
    "sync",
    "verify",
    "write_durably",
]
