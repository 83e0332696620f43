"""The untuned base: the zero line of every comparison; with examples or a template of its own, a hard prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from tasks.data.plain_template import PlainTemplate
from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method
from tasks.methods._prompting import Prompting
from tasks.methods._values import NOTHING, MethodInfo, Supplies
from tasks.models.values import BaseModelFacts

if TYPE_CHECKING:
    from torch import Tensor, nn


class NoTuning(Method):
    """Settings of `none`: what the base can do by itself, asked as the data section says or by a hard prompt.

    A hard prompt (`shots`, `template`) stands in the same table as the soft ones, measured on the same rows. It trains
    nothing, so it cannot win and is not registered; differences are those to the base without one.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="nothing: the base as it is, zero-shot, or with examples in front of each question",
        paper="2005.14165",
        holds="nothing",
        mergeable=False,
        memory="0",
        quantized_base=True,
        traps=(
            "examples count against the model's context: those that do not fit are left out and counted",
            "no example asks what the evaluation asks, whatever data.on_leak allows",
        ),
    )

    kind: Literal["none"] = "none"
    shots: int = Field(default=0, ge=0)
    """Training rows in front of each question, each with another prompt, rendered as in training: as earlier turns of a
    chat template, under a plain template one after the other. The loss is of the question's own answer alone."""
    shots_seed: int = Field(default=0, ge=0)
    """Chooses and orders these rows, by their content: a reordered file gives the same ones."""
    shots_separator: str | None = None
    """Text between examples under a plain template, behind its own end; an empty line when absent."""
    template: str | None = None
    """Asks with this plain template, written as `data.template` is, in the place of that and of a chat template."""

    @field_validator("template")
    @classmethod
    def _template_is_usable(cls, template: str | None) -> str | None:
        if template is not None:
            PlainTemplate.parse(template)
        return template

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> NoTuning:
        if not self.shots and (self.shots_seed or self.shots_separator is not None):
            raise ValueError("shots_seed and shots_separator say which examples stand where. Set shots, or remove them")
        return self

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """No step is ever taken."""
        return 0.0

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        raise ConfigError("nothing would train", where=f"methods[{self.label}]", fix="Evaluate it without training")

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        """Nothing was made."""

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        return base.requires_grad_(False).eval()

    def prompting(self) -> Prompting | None:
        if not self.shots and self.template is None:
            return None
        return Prompting(shots=self.shots, seed=self.shots_seed, template=self.template, separator=self.shots_separator)
