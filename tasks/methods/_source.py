"""What an earlier run left, found and digested: a start, a teacher, a part of a composition."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from tasks.foundation.values import Value
from tasks.models.resolve import TOKENIZER_FILES, base_files
from tasks.models.values import BaseModel

Holds = Literal["nothing", "adapter", "model"]
_ADAPTER_SUFFIXES = (".json", ".safetensors")


class Source(Value):
    """An adapter folder or a whole model, as it lies on this machine."""

    reference: str
    """As the user wrote it."""
    path: Path
    """The folder with `adapter_config.json` or `config.json`."""
    digest: str
    """sha256 over the names and bytes of its files: what counts, wherever it lies."""
    holds: Holds
    method: dict[str, Any] | None = None
    """Settings of the method that made it, where that is known."""
    base_digest: str = ""
    """Of the base that an adapter belongs to, where that is known."""
    model: BaseModel | None = None
    """Where it is a whole model."""
    run_id: str = ""
    """The MLflow run that made it, where that is known: the edge of the lineage."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that `digest` covers, sorted; of an adapter's folder that is gone none.

        Raises:
            ModelError: a whole model is not complete.
        """
        return base_files(self.path) if self.holds == "model" else adapter_files(self.path)

    @property
    def title(self) -> str:
        """For cards and reports: what it is called, without a path of this machine."""
        if self.run_id == self.reference:
            return f"run {self.run_id}"
        folder = not self.reference.startswith(("models:/", "embedded:")) and "@" not in self.reference
        name = Path(self.reference).name if folder else self.reference
        return f"{name} of run {self.run_id}" if self.run_id else name


def adapter_files(folder: Path) -> tuple[str, ...]:
    """What an adapter is made of: safetensors, JSON and tokenizer files, sorted, with `/` in their names.

    READMEs, pickles, hidden folders and a trainer's checkpoints beside it are none of it.
    """
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return tuple(
        sorted(
            name.as_posix()
            for name in names
            if (name.suffix in _ADAPTER_SUFFIXES or name.name in TOKENIZER_FILES)
            and not any(part.startswith((".", "checkpoint-")) for part in name.parts)
        )
    )


def without_references(settings: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, Any]:
    """A method's settings with what each source is (`sha256:<digest>`) in the place of how it was named here.

    They parse as they did, and mean the same on every machine.
    """
    digests = {
        (name.partition(".")[0], source.reference): f"sha256:{source.digest}" for name, source in sources.items()
    }
    return {name: _replaced(value, name, digests) for name, value in settings.items()}


def _replaced(value: Any, name: str, digests: Mapping[tuple[str, str], str]) -> Any:
    if isinstance(value, list | tuple):
        return [_replaced(part, name, digests) for part in value]
    if isinstance(value, dict):
        return {key: _replaced(part, key, digests) for key, part in value.items()}
    return digests.get((name, value), value) if isinstance(value, str) else value
