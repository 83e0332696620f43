"""Checkpoints: committed atomically, verified before they are loaded, never fewer than one.

`<work>/checkpoints/step-00000050/` with `manifest.json` written last. A folder without a valid manifest does not exist.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from tasks.artifacts import MANIFEST, seal, sync, verify
from tasks.foundation.digests import canonical_json
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.foundation.faults import reach

log = logging.getLogger(__name__)

IDENTITY = "identity.json"
_NAME = re.compile(r"^step-(\d{8})$")


class Checkpoints:
    """The checkpoints of one cell, by step."""

    def __init__(self, folder: Path, identity: dict[str, str], guard: Callable[[], None] = lambda: None) -> None:
        """`identity`: what a checkpoint must share with this run to be resumed, name -> value.

        `guard`: called before anything becomes visible; it raises where another attempt has taken over.
        """
        self.folder = folder
        self._identity = identity
        self._guard = guard

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a folder with a manifest, ascending; by name, since clocks go backwards."""
        if not self.folder.is_dir():
            return []
        matches = ((_NAME.match(path.name), path) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match, path in matches if match and (path / MANIFEST).exists())

    def staging(self, step: int) -> Path:
        """An empty folder in which all ranks put the files of a step. Only rank 0; what earlier ones left goes."""
        self._guard()
        self.sweep()
        staging = self.folder / f".step-{step:08d}.staging"
        staging.mkdir(parents=True)
        return staging

    def commit(self, step: int) -> Path:
        """Seal the staged folder of a step and give it its name. Only rank 0, after all ranks wrote.

        Raises:
            CancelledRunError: another attempt has taken over; nothing is committed.
        """
        staging = self.folder / f".step-{step:08d}.staging"
        (staging / IDENTITY).write_text(canonical_json(self._identity), encoding="utf-8")
        seal(staging, kind="checkpoint", key=_key(step))
        final = self.path(step)
        self._delete(final)
        self._guard()
        reach("checkpoint.rename")
        staging.replace(final)
        sync(self.folder)
        reach("checkpoint.renamed")
        return final

    def sweep(self) -> None:
        """Remove what no attempt needs any more: half a checkpoint, staged or deleted. Only rank 0."""
        for path in sorted(self.folder.glob("*step-*")):
            if not (_NAME.match(path.name) and (path / MANIFEST).exists()):
                shutil.rmtree(path, ignore_errors=True)

    def newest(self, *, tidying: bool = False) -> int | None:
        """Step of the newest checkpoint that verifies and belongs to this run; damaged ones are passed over, saying so.

        Args:
            tidying: drop those that are damaged, and half ones, so that they can push no good one out. Only rank 0,
                while no other rank reads.

        Raises:
            ConfigError: the newest intact checkpoint was made under other settings; the message holds the diff.
        """
        if tidying:
            self.sweep()
        for step in reversed(self.steps()):
            try:
                self.intact(step)
            except IntegrityError as error:
                log.warning("checkpoint of step %d is damaged (%s); falling back to the one before", step, error)
                if tidying:
                    self._delete(self.path(step))
                continue
            self._refuse_foreign(step)
            return step
        return None

    def retain(self, limit: int, keep: Collection[int] = ()) -> None:
        """Delete all but the newest `limit` and those to `keep`. The manifest goes first: half a folder is none."""
        reach("checkpoint.retain")
        for step in self.steps()[: -max(limit, 1)]:
            if step not in keep:
                self._delete(self.path(step))

    def _delete(self, folder: Path) -> None:
        if folder.exists():
            (folder / MANIFEST).unlink(missing_ok=True)
            sync(folder)
            reach("checkpoint.delete")
            shutil.rmtree(folder, ignore_errors=True)

    def intact(self, step: int) -> Path:
        """The folder, after every byte was checked, and that it is of this step and not of another under its name.

        Raises:
            IntegrityError: it is not.
        """
        if (key := verify(self.path(step)).key) != _key(step):
            raise IntegrityError(f"it says that it is {key}", where=str(self.path(step)))
        return self.path(step)

    def _refuse_foreign(self, step: int) -> None:
        theirs = json.loads((self.path(step) / IDENTITY).read_text(encoding="utf-8"))
        difference = identity_difference(theirs, self._identity)
        if difference:
            raise ConfigError(
                f"the checkpoint of step {step} was made under other settings: {difference}",
                where=str(self.folder),
                fix="Take the settings back, or delete this folder to train from the start",
            )


def _key(step: int) -> str:
    return f"step-{step}"


def identity_difference(theirs: dict[str, str], ours: dict[str, str]) -> str:
    """`training.learning_rate 0.01 -> 0.02, …`, or an empty text where nothing differs."""
    names = sorted(theirs.keys() | ours.keys())
    changed = [name for name in names if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name} {theirs.get(name, '(absent)')} -> {ours.get(name, '(absent)')}" for name in changed)
