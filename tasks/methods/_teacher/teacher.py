"""Teachers: models beside the student that are never trained, saved, counted or shared among ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tasks.foundation.errors import ConfigError
from tasks.methods._continue import read_config
from tasks.methods._loss import answer_logits
from tasks.methods._peft import PeftMethod
from tasks.methods._registry import parse_method
from tasks.methods._source import Source
from tasks.methods._teacher.lesson import divergence_share
from tasks.methods._values import Supplies, Window
from tasks.models.loading import load_base, load_tokenizer
from tasks.models.values import BaseModel

if TYPE_CHECKING:
    from tasks.methods._teacher.twin import Twin

_HELD = "_teacher"


class Teacher:
    """A frozen model in eval mode: no dropout, no random number is drawn, so a resumed run sees what it would have.

    It is a plain attribute of the student's model, not a module of it.

    Args:
        model: what `named_teacher` gives.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.requires_grad_(False).eval()

    def hold_by(self, student: nn.Module) -> None:
        """Let `teacher_of` find this teacher from the student's model, whatever an engine puts around it."""
        vars(student)[_HELD] = self

    def taught(self, student: nn.Module, inputs: Mapping[str, Tensor], window: Window, logits: Tensor | None) -> Tensor:
        """The share of the loss that comes from the teacher.

        Args:
            student: as the engine holds it.
            inputs: of a micro-batch.
            window: of the step.
            logits: the student's on these inputs, [rows, tokens - 1, vocabulary], where they are known already.
        """
        raise NotImplementedError

    def on(self, device: torch.device) -> nn.Module:
        """The model where the batch is: engines move the student only."""
        if any(part.device != device for part in self.model.parameters()):
            self.model.to(device)
        return self.model


class DistributionTeacher(Teacher):
    """Token level: the student follows the teacher's distribution of each answer token.

    Args:
        model: one with the student's vocabulary.
        temperature: T.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__(model)
        self._temperature = temperature

    def taught(self, student: nn.Module, inputs: Mapping[str, Tensor], window: Window, logits: Tensor | None) -> Tensor:
        labels = inputs["labels"]
        with torch.no_grad():
            wanted = answer_logits(self.on(labels.device), inputs)
        given = answer_logits(student, inputs) if logits is None else logits
        return divergence_share(given, wanted, labels, window, self._temperature)


def teacher_of(model: nn.Module) -> Teacher:
    """The teacher that the student's model holds."""
    while _HELD not in vars(model):
        model = model.module  # an engine's wrapper
    found: Teacher = vars(model)[_HELD]
    return found


def refuse_other_base(source: Source, supplies: Supplies, where: str) -> None:
    """Raise ConfigError where an adapter as teacher is known to belong to another base, or nobody knows what it is."""
    if supplies.base and source.base_digest and source.base_digest != supplies.base.digest:
        raise ConfigError(
            f"teacher: {source.reference} is an adapter of another base",
            where=where,
            allowed="an adapter of this model, a whole model, or base",
            fix="Name the teacher's merged model",
        )
    if source.method is None and "peft_type" not in read_config(source):
        raise ConfigError(
            f"teacher: {source.reference} is no adapter of PEFT's, and no recipe.json beside it says how it is loaded",
            where=where,
            fix="Name the run, or the whole folder that training left",
        )


def adapted_teacher(twin: Twin, source: Source | None) -> nn.Module:
    """The bare base, or the base with an earlier adapter, on a twin of the student's base.

    Raises:
        ConfigError: loading it changes the base.
    """
    if source is None:
        return twin.module
    method = PeftMethod(kind="peft") if source.method is None else parse_method(source.method)
    loaded = method.load(twin.module, source.path)
    twin.refuse_changes()
    return loaded


def whole_teacher(model: BaseModel, student: nn.Module) -> nn.Module:
    """Another whole model, on the student's device, in the precision and quantisation that it was resolved with."""
    device = str(next(student.parameters()).device)
    return load_base(model, quantization=model.quantization, device=device)


def refuse_other_vocabulary(teacher: BaseModel, supplies: Supplies, where: str) -> None:
    """A distribution can be followed only over the same tokens.

    Raises:
        ConfigError: an id means another token to the teacher.
    """
    own = supplies.base
    if own is None or own.tokenizer_digest == teacher.tokenizer_digest:
        return
    tokens, theirs = _vocabulary(own), _vocabulary(teacher)
    if tokens != theirs:
        some = min(tokens.items() ^ theirs.items(), key=lambda pair: (pair[1], pair[0]))
        raise ConfigError(
            f"teacher: {teacher.name} has another vocabulary (they differ in token {some[1]}, {some[0]!r})",
            where=where,
            fix="Set level: sequence, which works over any two vocabularies",
        )


def _vocabulary(model: BaseModel) -> dict[str, int]:
    found: Any = load_tokenizer(model).get_vocab()
    return dict(found)
