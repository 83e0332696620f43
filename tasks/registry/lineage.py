"""What leads back from a result: the code that made it (git commit and changes), and the results it goes on from."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tasks.foundation.digests import code_digest, digest_file, digest_text, digest_value, library_versions
from tasks.methods import Source
from tasks.registry.values import CodeState

SOURCE = ("flows", "tasks", "configs")
_GIT_SECONDS = 20


def code_state(root: Path | None = None) -> CodeState:
    """The state of the project's own source.

    Args:
        root: top of the project; where this file lies when absent. Only a checkout whose top it is counts: a package
            installed somewhere inside the user's own repository has nothing to do with that repository's commit.
    """
    root = Path(__file__).resolve().parents[2] if root is None else root.resolve()
    plain = CodeState(version=library_versions("tuneline")["tuneline"], code_digest=code_digest(*SOURCE))
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top.strip()).resolve() != root:
        return plain
    diff = _git(root, "diff", "HEAD", "--binary", "--", *SOURCE) or ""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCE) or ""
    new = {name: digest_file(root / name) for name in listed.split("\0") if name}
    dirty = bool(diff or new)
    changed = digest_value({"diff": digest_text(diff), "new": new}) if dirty else ""
    return plain.model_copy(update={"commit": commit.strip(), "dirty": dirty, "diff_digest": changed})


def lineage_tags(sources: Mapping[str, Source]) -> dict[str, str]:
    """`tuneline.source.<name>`: what it is called, with its sha256 and (where known) its run beside it."""
    tags: dict[str, str] = {}
    for name, source in sources.items():
        facts = {"": source.title, ".sha256": source.digest, ".run_id": source.run_id}
        tags |= {f"tuneline.source.{name}{part}": text for part, text in facts.items() if text}
    return tags


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None where there is no git, no checkout, or no answer in time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments]
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            timeout=_GIT_SECONDS,
            check=True,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
