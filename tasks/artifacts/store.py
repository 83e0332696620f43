"""The artifact store: `<root>/<step>/<key>/`, committed atomically, verified before use, made once however many ask."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.artifacts.manifest import Manifest, seal, sync, verify, write_durably
from tasks.artifacts.values import Artifact
from tasks.foundation.errors import IntegrityError, shortage
from tasks.foundation.faults import reach

log = logging.getLogger(__name__)

Build = Callable[[Path], object]
"""Fills an empty folder; what it returns is not used."""


_LOOK_SECONDS = 0.5
"""How often a waiting caller asks whether it is still wanted."""


class ArtifactStore:
    """Folders named by the sha256 of everything that decides their content."""

    def __init__(self, root: Path, while_waiting: Callable[[], None] = lambda: None) -> None:
        """`while_waiting`: called again and again while another process makes an artifact; it may raise to give up."""
        self.root = root.absolute()
        self._while_waiting = while_waiting

    def folder(self, step: str, key: str) -> Path:
        """Where the artifact lies, or would."""
        return self.root / step / key

    def find(self, step: str, key: str) -> Artifact | None:
        """The artifact after all its digests were verified, or None. A damaged one is set aside, saying so."""
        folder = self.folder(step, key)
        if not folder.exists():
            return None
        try:
            manifest = verify(folder)
            if (manifest.kind, manifest.key) != (step, key):
                raise IntegrityError(
                    f"this is {manifest.kind} {manifest.key[:12]} in another's place", where=str(folder)
                )
        except IntegrityError as error:
            self._set_aside(folder, error)
            return None
        return self._artifact(step, key, manifest, cached=True)

    def make(self, step: str, key: str, build: Build, *, made_by: str = "") -> Artifact:
        """Find the artifact, or build it under a lock and commit it.

        The second of two callers waits and adopts what the first one made. `build` fills an empty folder beside the
        final one; a failure or a kill leaves nothing that looks valid.

        Raises:
            ResourceError: disk or memory ran out while it was built.
        """
        self.root.joinpath(step).mkdir(parents=True, exist_ok=True)
        with self._alone(step, key):
            return self.find(step, key) or self._build(step, key, build, made_by)

    @contextmanager
    def _alone(self, step: str, key: str) -> Iterator[None]:
        """Hold the artifact's lock; the system drops it when its holder dies, however that happens."""
        lock = FileLock(self.root / step / f".{key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.warning("%s %s is being made already; waiting for it", step, key[:12])
            while not lock.is_locked:
                self._while_waiting()
                with suppress(Timeout):
                    lock.acquire(timeout=_LOOK_SECONDS)
        try:
            yield
        finally:
            lock.release()

    def _build(self, step: str, key: str, build: Build, made_by: str) -> Artifact:
        staging = self.root / step / f".{key}.staging"
        shutil.rmtree(staging, ignore_errors=True)  # a killed builder left it, and perhaps half a file
        for half in (self.root / step).glob(f".{self._origin(step, key).name}.*"):
            half.unlink()
        try:
            staging.mkdir()
            reach("artifact.build")
            build(staging)
            manifest = seal(staging, kind=step, key=key)
            write_durably(self._origin(step, key), made_by)
            reach("artifact.rename")
            staging.replace(self.folder(step, key))
            sync(self.root / step)
            reach("artifact.done")
        except Exception as error:
            if (cause := shortage(error)) is not None:
                raise cause from error
            raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return self._artifact(step, key, manifest, cached=False)

    def _artifact(self, step: str, key: str, manifest: Manifest, *, cached: bool) -> Artifact:
        origin = self._origin(step, key)
        made_by = origin.read_text(encoding="utf-8") if origin.exists() else ""
        path = self.folder(step, key)
        return Artifact(step=step, key=key, path=path, digest=manifest.digest, cached=cached, made_by=made_by)

    def _origin(self, step: str, key: str) -> Path:
        """Outside the folder: who made it is not part of what it is."""
        return self.root / step / f"{key}.made_by"

    def _set_aside(self, folder: Path, error: IntegrityError) -> None:
        damaged = folder.with_name(f".{folder.name}.damaged.{os.getpid()}")
        shutil.rmtree(damaged, ignore_errors=True)
        folder.replace(damaged)
        log.warning("%s; it was set aside as %s and is made again", error, damaged.name)
