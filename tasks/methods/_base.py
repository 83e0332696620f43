"""The one shape of every fine-tuning method: settings, facts for the reader, and a few hooks.

A method is one public file in this package with one class below `Method` (or `PeftMethod`). torch, transformers and
peft are imported inside the hooks only: the command line validates experiments without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tasks.foundation.imports import needed_within
from tasks.foundation.values import Settings
from tasks.methods._prompting import Prompting
from tasks.methods._source import Holds, Source
from tasks.methods._values import INIT_FROM, NOTHING, Conditions, MethodInfo, Moment, StepLoss, Supplies, Window
from tasks.models.values import BaseModelFacts, Quantization

if TYPE_CHECKING:
    from torch import Tensor, nn


class Method(Settings):
    """Settings of one method and its hooks; the hooks do nothing unusual by default."""

    info: ClassVar[MethodInfo]
    example: ClassVar[Mapping[str, Any]] = {}
    """Where a kind alone says too little: settings beside it that make a method, as the documentation shows it."""

    kind: str
    name: str | None = None
    """Name in tables; the kind when absent."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Wins over `training.learning_rate`; when both are absent the method's default for the model's size."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Wins over `training.weight_decay`."""
    max_steps: int | None = Field(default=None, gt=0)
    """Wins over `training.max_steps`: soft prompts want two to five times the steps."""

    init_from: str | None = None
    """Start from what an earlier run left: a run id, `models:/NAME/VERSION`, `models:/NAME@ALIAS`, a hub id with its
    commit (`owner/name@40 hex digits`), or a folder."""

    @classmethod
    def expand(cls, settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The settings of each cell that one entry of an experiment stands for, in order: itself, where not overridden.

        Raises:
            ConfigError: it names files, and something is wrong with one of them.
        """
        return [settings]

    @property
    def label(self) -> str:
        return self.name or self.kind

    @property
    def holds(self) -> Holds:
        """What training leaves with these settings."""
        return self.info.holds

    def code(self) -> tuple[str, ...]:
        """Modules of the package whose code decides what this method does: its own, and all that it imports."""
        return needed_within("tasks.methods", type(self).__module__)

    def unmergeable(self) -> str:
        """Why the adapter of these settings cannot become part of the base; empty where it can."""
        return "" if self.info.mergeable else f"{self.kind} has no merged form"

    @property
    def tells(self) -> bool:
        """Whether a result has more to say than its scores: it has several sizes, or explains itself."""
        return bool(self.sizes()) or type(self).explain is not Method.explain

    def refuses_engine(self, engine: str) -> str:
        """Why these settings cannot train under an engine (`zero1`, …, `fsdp2`); empty where they can."""
        return self.info.refuses.get(engine, "")

    def refuses_quantization(self, quantization: Quantization) -> str:
        """Why these settings cannot train on a base that is quantised so; empty where they can."""
        return "" if self.info.quantized_base else "it works on the base's own weights, which must be floats"

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """A rate that suits the method at this size (sources: docs/methods.md)."""
        raise NotImplementedError(f"{type(self).__name__} has no default learning rate")

    def decay(self, usual: float) -> float:
        """Weight decay of what trains; `usual` is `training.weight_decay`."""
        return usual if self.weight_decay is None else self.weight_decay

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        """Refuse what cannot work, before the model is loaded.

        Raises:
            ConfigError: with the reason and the way out.
        """

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        """Refuse what the base's modules (names, sizes, ties) and the sources show, before a weight of it is loaded.

        Args:
            skeleton: `tasks.models.skeleton`, shared by all cells on this base: it must stay as it is.
            supplies: as `attach` will get them, without batches.

        Raises:
            ConfigError: with the reason and the way out.
        """

    def quantization(self) -> Quantization | None:
        """How this method wants the base to be loaded for training; None leaves it to `model.quantization`."""
        return None

    def sources(self) -> Mapping[str, str]:
        """Earlier results that training needs: a name -> what the user wrote. They arrive in `Supplies.sources`."""
        return {} if self.init_from is None else {INIT_FROM: self.init_from}

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """Make the model trainable by this method. Seeds are set before; exactly what should train has requires_grad.

        Raises:
            ConfigError: nothing would train.
        """
        raise NotImplementedError

    def start_from(self, model: nn.Module, source: Source) -> None:
        """Put an earlier result's weights into the attached model, before its first step.

        Raises:
            ConfigError: they are not of this method, or of another size, with the way out.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot start from an earlier result")

    def rehearse_start(self, skeleton: nn.Module, supplies: Supplies) -> None:
        """Attach and start on an architecture without weights, where names and sizes tell what `start_from` would.

        Args:
            skeleton: a copy of its own, on torch's meta device.
            supplies: with the source under `INIT_FROM`.

        Raises:
            ConfigError: as `start_from`.
        """
        self.start_from(self.attach(skeleton, supplies), supplies.sources[INIT_FROM])

    def learning_rate_scale(self, name: str) -> float:
        """Factor on the learning rate of a trainable parameter, by its full name (LoRA+ sets one for B)."""
        return 1.0

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        """Runs before each optimiser step's first micro-batch. What is drawn here comes from `moment` alone."""

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss | None:
        """The loss of one micro-batch where it is not the model's own; `inputs` holds `labels`, -100 where masked."""
        return None

    def after_optimizer_step(self, model: nn.Module, moment: Moment) -> None:
        """Runs after each optimiser step, before the gradients are cleared (AdaLoRA's budget lives here)."""

    def training_state(self, model: nn.Module) -> Mapping[str, Tensor]:
        """What, beside trainable tensors, decides later steps: kept in checkpoints."""
        return {}

    def restore_training_state(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `training_state` gave."""

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Write what training made into an existing empty folder, as safetensors and JSON only.

        Args:
            model: what trained; under some engines this process holds but a part of each of its tensors.
            folder: exists and is empty.
            tensors: full name -> the whole tensor on the CPU: all that trained, and where `holds` is `model` every
                parameter and persistent buffer.
        """
        raise NotImplementedError

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        """Put what `save` wrote on a freshly loaded base, ready for inference."""
        raise NotImplementedError

    def loads_with(self) -> Method:
        """The method whose `load` reads the result: another one where this one only changes how that one trains."""
        return self

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        """Write the merged weights, shard by shard, as `model*.safetensors` (+ index) into `output`.

        Only called where `unmergeable` is empty and `holds` is `adapter`.
        """
        raise NotImplementedError

    def prompting(self) -> Prompting | None:
        """How the evaluation words its questions for this method; None as the data section says."""
        return None

    def base_alone(self, model: nn.Module) -> AbstractContextManager[None]:
        """While it is open, a loaded model computes as the base would without what training made.

        Only called where `unmergeable` is empty: the proof of a merge wants to see that training changed anything.
        """
        alone: AbstractContextManager[None] = model.disable_adapter()
        return alone

    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes in which the result can be served, the largest first; empty where there is but one."""
        return ()

    def set_size(self, model: nn.Module, size: str) -> None:
        """Give a loaded model one of `sizes`; another call gives it another."""

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        """What the loaded model says of itself on held-out rows, name -> number (where fusion looks, which ranks)."""
        return {}
