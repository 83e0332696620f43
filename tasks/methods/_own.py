"""What all adapters that PEFT does not know share: start, save, load, in the folder of `_own_folder`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method
from tasks.methods._own_folder import adapter_of, describe, fill, read_adapter, write_adapter
from tasks.methods._source import Source
from tasks.methods._values import INIT_FROM, NOTHING, Supplies

if TYPE_CHECKING:
    from torch import Tensor, nn


class OwnAdapter(Method):
    """An adapter of ours. A subclass says what describes its modules, and builds them from that."""

    def parts(self, model: nn.Module) -> dict[str, Any]:
        """What rebuilds the modules that these settings put into this model, as JSON values."""
        raise NotImplementedError

    def build(self, base: nn.Module, parts: Mapping[str, Any], where: str) -> None:
        """Put the modules that `parts` describes into a frozen base, to be filled."""
        raise NotImplementedError

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        source = supplies.sources.get(INIT_FROM)
        if source is not None and source.model is None:
            adapter_of(source, skeleton, f"methods[{self.label}].{INIT_FROM}")

    def start_from(self, model: nn.Module, source: Source) -> None:
        fill(model, self.earlier(source, model, self.parts(model)), f"methods[{self.label}].{INIT_FROM}")

    def earlier(self, source: Source, base: nn.Module, own: Mapping[str, Any]) -> dict[str, Tensor]:
        """The tensors of an earlier adapter with the same parts on a base like this one.

        Raises:
            ConfigError: it is something else, or has other parts.
        """
        where = f"methods[{self.label}].{INIT_FROM}"
        saved, tensors = adapter_of(source, base, where)
        if difference := sorted(name for name in own if saved.parts.get(name) != own[name]):
            name = difference[0]
            raise ConfigError(
                f"{source.reference} has {name} {saved.parts.get(name)}, these settings give {own[name]}",
                where=where,
                fix="Take the settings of the earlier run, or start anew without init_from",
            )
        return tensors

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors, and of the settings what rebuilds the modules."""
        write_adapter(folder, describe(self.kind, model, self.parts(model)), tensors)

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Build what the folder describes, whatever these settings say, and fill it.

        Raises:
            IntegrityError: the folder is incomplete or belongs to another base.
        """
        saved, tensors = read_adapter(folder, base)
        base.requires_grad_(False)
        self.build(base, saved.parts, str(folder))
        fill(base, tensors, str(folder))
        return base.requires_grad_(False).eval()
