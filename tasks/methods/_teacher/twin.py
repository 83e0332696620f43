"""A second model on the same weights: what a teacher on the student's own base is made of."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from tasks.foundation.errors import ConfigError


class Twin:
    """Modules of their own over the very parameters and buffers of a base.

    So a teacher's adapter hangs on the base beside the student's, neither knows of the other, and the base lies in
    memory once. Weights of the base that the student goes on to train are copied, since the teacher's must stay.

    Args:
        base: freshly loaded, nothing attached.
        where: of the method, for messages.
    """

    def __init__(self, base: nn.Module, where: str) -> None:
        self.module = _twin(base)
        self._where = where
        self._before = {name: (part.dtype, _sum(part)) for name, part in self.module.named_parameters()}

    def part_from_student(self) -> None:
        """After the student was attached: copy what trains, refuse what it has changed already.

        Raises:
            ConfigError: the student's start has rewritten weights of the base (as PEFT's own PiSSA does).
        """
        self.refuse_changes()
        copies: dict[int, nn.Parameter] = {}
        for module in self.module.modules():
            for name, part in list(module._parameters.items()):
                if part is not None and part.requires_grad:
                    own = nn.Parameter(part.detach().clone(), requires_grad=False)
                    module._parameters[name] = copies.setdefault(id(part), own)

    def refuse_changes(self) -> None:
        """Compare the weights with what they were; a float32 copy of 16-bit weights is no change.

        Raises:
            ConfigError: one was rewritten, so student and teacher do not stand on one base.
        """
        for name, part in self.module.named_parameters():
            dtype, before = self._before.get(name, (None, 0.0))
            if part.dtype == dtype and _sum(part) != before:
                raise ConfigError(
                    f"{name} of the base is rewritten before training, so a teacher on the same base would change too",
                    where=self._where,
                    fix="Take {kind: lora} with any start, which leaves the base as it is, for the teacher as for the "
                    "student, or name a whole model as teacher",
                )


def _twin(base: nn.Module) -> nn.Module:
    """A deep copy in which the tensors, and what bitsandbytes keeps of quantised ones, are the base's own."""
    shared: list[Any] = [*base.parameters(), *base.buffers()]
    for module in base.modules():
        if type(module).__module__.startswith("bitsandbytes"):
            shared += [vars(module)[name] for name in ("state", "quant_state") if vars(module).get(name) is not None]
    return copy.deepcopy(base, {id(thing): thing for thing in shared})


def _sum(tensor: torch.Tensor) -> float:
    """Over all elements in float64, without a copy of them; another order of the same numbers never occurs here."""
    return float(tensor.detach().sum(dtype=torch.float64))
