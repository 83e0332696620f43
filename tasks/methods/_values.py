"""What a method says of itself, what it is told, and what it answers: the values beside its hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from tasks.foundation.values import Value
from tasks.methods._source import Holds, Source
from tasks.models.values import BaseModel, Quantization

if TYPE_CHECKING:
    from torch import Tensor

INIT_FROM = "init_from"
"""Name of the source that training starts from, in `Method.sources` and `Supplies.sources`."""


class MethodInfo(Value):
    """What `tuneline methods` and the documentation say of a method."""

    trains: str
    """What trains, in words."""
    paper: str
    """arXiv id, or `-`."""
    holds: Holds
    """What training leaves: nothing, an adapter folder, or a whole model."""
    mergeable: bool
    """Whether the result can become a plain model of the base's architecture, with some settings at least."""
    memory: str
    """Bytes beside the forward pass, as a formula in N (all parameters), n (trainable), d, L, r, T."""
    gradient_checkpointing: bool | Literal["by settings"] = True
    """Whether it works; `Method.check` refuses it where it does not."""
    quantized_base: bool = False
    """Whether the base may be quantised; `Method.refuses_quantization` says which way it may not be."""
    refuses: Mapping[str, str] = {}
    """Engine (`zero1`, `zero2`, `zero3`, `fsdp2`, …) -> why this method cannot train under it."""
    families: str = "all"
    traps: tuple[str, ...] = ()


class Conditions(Value):
    """What a method may have to refuse, known before any weight is loaded."""

    gradient_checkpointing: bool
    packing: bool
    max_seq_length: int
    """Tokens; virtual tokens come on top and count against the model's context."""
    quantization: Quantization | None = None
    """Of the base, whoever asked for it."""


def _no_batches() -> Iterator[dict[str, Tensor]]:
    return iter(())


class Supplies(NamedTuple):
    """What a training session has for a method beside the base."""

    sources: Mapping[str, Source] = {}
    """What `Method.sources` names, found and digested."""
    batches: Callable[[], Iterator[dict[str, Tensor]]] = _no_batches
    """The training rows as batches (`input_ids`, `labels`, `attention_mask`; [rows, tokens]) in an order that the seed
    decides, on the CPU, from the start at each call; the same on all ranks."""
    seed: int = 0
    base: BaseModel | None = None
    """What the model was loaded from: a source must belong to it, or share its vocabulary."""


class Moment(NamedTuple):
    """Where training stands. All ranks see the same, and a resumed run what an uninterrupted one would have seen."""

    step: int
    """Optimiser steps, the one that is being taken included: 1 at first."""
    total_steps: int
    seed: int


class Window(NamedTuple):
    """The optimiser step that a micro-batch belongs to."""

    items: Tensor | int | None
    """Answer tokens of all its micro-batches on all ranks: the loss is a sum over this."""
    micro_batches: int
    """How many micro-batches it has, on all ranks together: a penalty adds 1 / this of itself in each."""


class StepLoss(NamedTuple):
    """Both are shares of one optimiser step: the micro-batches of all ranks add up to it."""

    total: Tensor
    """What is differentiated."""
    cross_entropy: Tensor
    """What is reported: nats per answer token, without penalties and without a teacher's part."""


NOTHING = Supplies()
