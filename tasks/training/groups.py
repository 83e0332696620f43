"""Which rate and which decay each trainable tensor has: the method's, the layer's, and those of the user's groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.foundation.errors import ConfigError
from tasks.training.settings import GroupSettings, ParameterGroup

if TYPE_CHECKING:
    from torch import nn

_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
"""Where the architectures number their blocks; the first such number of a name counts."""
_EMBEDDING = re.compile(r"(?:^|\.)(?:embed_\w+|w[tp]e|(?:word|tok|position)_embeddings?\w*|embeddings)\.")
"""What the architectures call the tables in front of the blocks."""


class Rates(NamedTuple):
    """What holds where nothing else is said."""

    learning_rate: float
    weight_decay: float
    scale: Callable[[str], float]
    """The method's own factor on the rate of a tensor, by its full name."""


def parameter_groups(
    model: nn.Module, rates: Rates, settings: GroupSettings, decaying: Collection[str]
) -> list[dict[str, Any]]:
    """The optimiser's groups, every trainable tensor in one; the plainest first, since its rate is the one reported.

    Args:
        model: with what trains.
        rates: of tensors without a word about them.
        settings: `training.layerwise_lr_decay` and `training.parameter_groups`.
        decaying: names of the tensors that decay where no group says otherwise.

    Raises:
        ConfigError: a group that no trainable tensor belongs to, or layers that cannot be told from each other.
    """
    trainable = {name: part for name, part in model.named_parameters() if part.requires_grad}
    _refuse_empty(settings, trainable)
    depth = 0 if settings.layerwise_lr_decay is None else _depth(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, part in trainable.items():
        scale = rates.scale(name) * _layer_scale(name, settings.layerwise_lr_decay, depth)
        decay = rates.weight_decay if name in decaying else 0.0
        for group in _groups_of(name, settings):
            scale *= group.learning_rate_scale
            decay = decay if group.weight_decay is None else group.weight_decay
        groups.setdefault((scale, decay), []).append(part)
    ordered = sorted(groups.items(), key=lambda item: (abs(item[0][0] - 1), -item[0][1]))
    return [
        {"params": parts, "lr": rates.learning_rate * scale, "weight_decay": decay} for (scale, decay), parts in ordered
    ]


def _block(name: str) -> int | None:
    found = _BLOCK.search(name)
    return int(found.group(1)) if found else None


def _depth(model: nn.Module) -> int:
    """Blocks of the model, of which perhaps a few train."""
    blocks = [block for name, _ in model.named_parameters() if (block := _block(name)) is not None]
    if not blocks:
        raise ConfigError(
            "the model's parameters are not numbered by block, so no layer can be told from another",
            where="training.layerwise_lr_decay",
            fix="Remove it, or name the tensors under training.parameter_groups",
        )
    return 1 + max(blocks)


def _layer_scale(name: str, decay: float | None, depth: int) -> float:
    """decay^(L + 1 - l) with l = 0 for embeddings, i + 1 for block i of L (from 0), L + 1 for all else.

    The idea is ELECTRA's (arXiv 2003.10555), the exponents are those of BEiT (2106.08254): what stands behind the
    blocks keeps the rate. So does what belongs to no block, such as a soft prompt or a table shared by all of them.
    """
    if decay is None:
        return 1.0
    block = _block(name)
    if block is not None:
        return float(decay ** (depth - block))
    return float(decay ** (depth + 1)) if _EMBEDDING.search(name) else 1.0


def _groups_of(name: str, settings: GroupSettings) -> Iterator[ParameterGroup]:
    return (group for group in settings.parameter_groups if re.search(group.parameters, name))


def _refuse_empty(settings: GroupSettings, names: Collection[str]) -> None:
    for index, group in enumerate(settings.parameter_groups):
        if not any(re.search(group.parameters, name) for name in names):
            raise ConfigError(
                f"{group.parameters!r} matches none of the {len(names)} trainable tensors",
                where=f"training.parameter_groups[{index}]",
                allowed=f"a regular expression that is found in a name such as {min(names)}",
                fix="Correct the expression, or remove the group",
            )
