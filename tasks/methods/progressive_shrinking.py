"""Progressive shrinking: one adapter is trained largest first, then in ever smaller sizes, and serves all of them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._lora.method import LowRankMethod
from tasks.methods._lora.sizes import Size
from tasks.methods._loss import IGNORED, answer_logits, cross_entropy_share
from tasks.methods._teacher.lesson import divergence_share
from tasks.methods._values import NOTHING, Conditions, MethodInfo, Moment, StepLoss, Supplies, Window
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn

ELASTIC: Final = "elastic.json"
"""Beside PEFT's two files: which sizes the adapter was trained for."""
_FIRST_STEPS: Final = 3
"""At the least at the largest size: every tensor moves before some of them rest."""


class ProgressiveShrinking(LowRankMethod):
    """Settings of `progressive_shrinking`.

    Once-for-All (1908.09791) read for adapters: ranks nest as in DyLoRA (2210.07558), the sub-adapter of rank k being
    rows A[:k] and columns B[:, :k] at the scale of the largest; depths are numbers of topmost blocks that keep their
    adapter. Training begins with the largest size alone; then each step draws one from a set that takes in ever
    smaller ones, and what is drawn learns from the data and from the largest size's distribution.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="one elastic LoRA adapter that serves every rank and depth",
        paper="1908.09791",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n as lora's of the largest size; smaller sizes add one forward pass without gradients",
        quantized_base=True,
        traps=(
            "saved and merged as a plain LoRA of the largest size; the smaller sizes are parts of it",
            "a smaller size is not a LoRA of that rank with its own alpha: the scale stays that of the largest",
            "give it more steps than a LoRA of one size: they are shared among the sizes",
        ),
    )

    kind: Literal["progressive_shrinking"] = "progressive_shrinking"
    use_dora: Literal[False] = False
    """Not here: DoRA's magnitudes belong to one rank, so ranks do not nest."""
    init_lora_weights: Literal[True, "gaussian"] = True
    """Start of A (Kaiming uniform or Gaussian) with B = 0: every size starts as the base."""
    ranks: tuple[int, ...] = ()
    """Ranks to serve, largest first, beginning with `r`; r, r/2, …, 1 when absent."""
    depths: tuple[int, ...] = ()
    """Numbers of topmost blocks that carry adapters, largest first, beginning with all blocks; all when absent."""
    largest_share: float = Field(default=0.4, gt=0, lt=1)
    """Share of the steps that train the largest size alone, three at the least; the smaller sizes share the rest."""
    teaching: float = Field(default=1.0, ge=0)
    """Weight of KL(largest || drawn size) beside the cross-entropy; 0 teaches nothing."""

    @model_validator(mode="after")
    def _nesting(self) -> Self:
        for name, values in (("ranks", self.ranks), ("depths", self.depths)):
            if list(values) != sorted(set(values), reverse=True) or any(value < 1 for value in values):
                raise ValueError(f"{name} must fall from the largest and stay above 0")
        if self.ranks and self.ranks[0] != self.r:
            raise ValueError(f"ranks must begin with r, which is {self.r}")
        if self.depths and self.layers_to_transform is not None:
            raise ValueError("layers_to_transform does not go with depths: both choose blocks. Remove one of them")
        if len(self.variants()) == 1:
            raise ValueError("there is but one size. Raise r or name depths, or take {kind: lora}")
        return self

    def variants(self) -> tuple[Size, ...]:
        """All sizes, the largest first; equal ones by rank."""
        halves = tuple(self.r >> power for power in range(self.r.bit_length()))
        made = (Size(rank, depth) for rank, depth in product(self.ranks or halves, self.depths or (None,)))
        return tuple(sorted(made, key=lambda size: (-size.weight, -size.rank)))

    def sizes(self) -> tuple[str, ...]:
        return tuple(size.name for size in self.variants())

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        super().check(facts, conditions)
        if self.depths and self.depths[0] != facts.num_hidden_layers:
            raise ConfigError(
                f"depths must begin with all blocks of the model, got {self.depths[0]}",
                where=f"methods[{self.label}]",
                allowed=f"{facts.num_hidden_layers}, then smaller ones",
                fix=f"Set depths: [{facts.num_hidden_layers}, …]",
            )

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        attached = super().attach(model, supplies)
        self._make_elastic(attached)
        return attached

    def _make_elastic(self, model: nn.Module) -> None:
        from tasks.methods._lora.elastic import make_elastic

        make_elastic(model, self.variants()[0], model.get_base_model().config.num_hidden_layers)

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        """Give the model the size of this step."""
        from tasks.methods._lora.elastic import elastic_of

        elastic_of(model).training = self.drawn(moment)

    def drawn(self, moment: Moment) -> Size:
        """The size of a step: the largest at first, then one from a set that grows by the next smaller in each phase.

        A function of seed and step, so all ranks and a resumed run draw the same.
        """
        sizes = self.variants()
        alone = max(_FIRST_STEPS, math.ceil(self.largest_share * moment.total_steps))
        if moment.step <= alone:
            return sizes[0]
        done = (moment.step - alone - 1) / (moment.total_steps - alone)
        phase = 1 + int(done * (len(sizes) - 1))
        return random.Random(f"{moment.seed}:{moment.step}").choice(sizes[: phase + 1])

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss:
        """CE at the largest size; CE + teaching * KL(largest || drawn) at a smaller one, over the answer tokens."""
        from tasks.methods._lora.elastic import elastic_of

        elastic, labels = elastic_of(model), inputs["labels"]
        taught = self.teaching > 0 and elastic.training != elastic.largest
        wanted = _largest_logits(model, inputs) if taught else None
        logits = answer_logits(model, inputs)
        share = cross_entropy_share(logits, labels, window)
        if wanted is None:
            return StepLoss(share, share)
        return StepLoss(share + self.teaching * divergence_share(logits, wanted, labels, window, 1.0), share)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """A standard PEFT LoRA of the largest size, and which smaller ones are in it."""
        super().save(model, folder, tensors)
        sizes = {size.name: {"rank": size.rank, "depth": size.depth} for size in self.variants()}
        text = json.dumps({"sizes": sizes}, indent=2)
        (folder / ELASTIC).write_text(text + "\n", encoding="utf-8")

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        loaded = super().load(base, folder)
        self._make_elastic(loaded)
        return loaded

    def set_size(self, model: nn.Module, size: str) -> None:
        from tasks.methods._lora.elastic import elastic_of

        known = {variant.name: variant for variant in self.variants()}
        if size not in known:
            raise ConfigError(f"no size {size!r}", where=f"methods[{self.label}]", allowed=", ".join(known))
        elastic_of(model).serving = known[size]

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """Cross-entropy per answer token of every size, in nats: `loss/r8`; the model is left at the largest."""
        rows, found = list(batches), {}
        for size in reversed(self.sizes()):
            self.set_size(model, size)
            found[f"loss/{size}"] = _mean_loss(model, rows)
        return dict(reversed(found.items()))


def _largest_logits(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What the largest size says now, without dropout and without a graph; in eval mode the model has that size."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = answer_logits(model, inputs)
    model.train(was_training)
    return logits


def _mean_loss(model: nn.Module, rows: Iterable[Mapping[str, Tensor]]) -> float:
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            total += float(cross_entropy_share(answer_logits(model, row), row["labels"], Window(1, 1)))
            count += int((row["labels"][:, 1:] != IGNORED).sum())
    return total / max(count, 1)
