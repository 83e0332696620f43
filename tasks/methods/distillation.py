"""Distillation: a student of any method learns from what a teacher would have said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from pydantic import Field, field_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._base import Method
from tasks.methods._loss import answer_logits, cross_entropy_share
from tasks.methods._registry import parse_method
from tasks.methods._source import Holds, Source
from tasks.methods._values import INIT_FROM, NOTHING, Conditions, MethodInfo, Moment, StepLoss, Supplies, Window
from tasks.models.values import BaseModelFacts, Quantization

if TYPE_CHECKING:
    from torch import Tensor, nn

TEACHER: Final = "teacher"
"""Name of the source, where the teacher is not the bare base."""
BARE_BASE: Final = "base"
_SHARED = (
    "name",
    "learning_rate",
    "weight_decay",
    "max_steps",
    "init_from",
)
"""Settings that stand beside `student`, never in it: there is one of each."""
_WHOLE = "the teacher computes on the whole base on every rank, and this engine leaves each rank a part of it"


class Distillation(Method):
    """Settings of `distillation`.

    Token level: (1 - alpha) CE + alpha T^2 KL(teacher || student) over the answer tokens. Sequence level: the
    cross-entropy of answers that the teacher writes takes the place of the KL term. What is saved, loaded, merged,
    started from and refused is the student's.
    """

    info: ClassVar[MethodInfo] = MethodInfo(
        trains="what the student's method trains, towards a teacher",
        paper="1503.02531",
        holds="adapter",
        mergeable=True,
        memory="the student's + a forward pass of the teacher and its adapter, no second base; + b N of a teacher that "
        "is another model; + b n of base weights that the student trains",
        gradient_checkpointing="by settings",
        quantized_base=True,
        refuses={"zero3": _WHOLE, "fsdp2": _WHOLE},
        traps=(
            "holds, merges and refuses what its student does; the reported loss is the cross-entropy alone",
            "with the bare base as teacher it holds the student near the base: it forgets less and learns less",
            "a student that rewrites the base (peft_config with PEFT's own PiSSA, OLoRA or OSF) cannot share it with a "
            "teacher; {kind: lora, init_lora_weights: pissa} can",
            "sequence level costs one greedy answer per row and epoch while it trains: for large data, write the "
            "teacher's answers to a file once and train on that",
            "at sequence level the teacher reads the prompt as the student's template renders it, without special "
            "tokens; of a conversation only the last answer is learned from it",
        ),
    )

    kind: Literal["distillation"] = "distillation"
    student: dict[str, Any] = Field(default={"kind": "lora"}, validate_default=True)
    """Settings of the method that learns, with `kind`; what all methods have (rate, decay, steps) stands beside it."""
    teacher: str = Field(default=BARE_BASE, min_length=1)
    """`base` (the model before any tuning), or an earlier result: an adapter of this base, or any whole model."""
    alpha: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher in the loss; the rest is the data's."""
    temperature: float = Field(default=2.0, gt=0)
    """Softens both distributions at token level, so that unlikely tokens teach too."""
    level: Literal["token", "sequence"] = "token"
    """`token` follows the teacher's distribution and needs its vocabulary; `sequence` learns from its answers."""
    max_new_tokens: int = Field(default=64, gt=0)
    """Longest answer of the teacher at sequence level, in its tokens."""

    @field_validator("student")
    @classmethod
    def _a_method_that_trains(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Every setting of the student made explicit, so that the record shows it."""
        if doubled := [name for name in _SHARED if given.get(name) is not None]:
            raise ValueError(f"{doubled[0]} stands beside student, not in it")
        method = parse_method(given)
        if method.holds == "nothing" or isinstance(method, Distillation):
            raise ValueError(f"{method.kind} cannot be the student. Take a method that trains, such as {{kind: lora}}")
        return method.model_dump(mode="json", exclude=set(_SHARED))

    @property
    def learner(self) -> Method:
        """The student's method; its refusals name this one."""
        return parse_method(self.student | {"name": self.label, "init_from": self.init_from})

    # --- what is the student's ------------------------------------------------------------------------------------

    @property
    def holds(self) -> Holds:
        return self.learner.holds

    def unmergeable(self) -> str:
        return self.learner.unmergeable()

    def refuses_engine(self, engine: str) -> str:
        return super().refuses_engine(engine) or self.learner.refuses_engine(engine)

    def refuses_quantization(self, quantization: Quantization) -> str:
        return self.learner.refuses_quantization(quantization)

    def quantization(self) -> Quantization | None:
        return self.learner.quantization()

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        return self.learner.default_learning_rate(facts)

    def decay(self, usual: float) -> float:
        """Beside the student nothing was said: then its own method decides, as it would without a teacher."""
        return self.learner.decay(usual) if self.weight_decay is None else self.weight_decay

    def learning_rate_scale(self, name: str) -> float:
        return self.learner.learning_rate_scale(name)

    def start_from(self, model: nn.Module, source: Source) -> None:
        """An adapter that was distilled is one of its student's method."""
        made_by = parse_method(source.method) if source.method else None
        if isinstance(made_by, Distillation):
            source = source.model_copy(update={"method": made_by.learner.model_dump(mode="json")})
        self.learner.start_from(model, source)

    def rehearse_start(self, skeleton: nn.Module, supplies: Supplies) -> None:
        """Without the teacher, who has no say in where the student starts."""
        self.start_from(self.learner.attach(skeleton, supplies), supplies.sources[INIT_FROM])

    def before_step(self, model: nn.Module, moment: Moment) -> None:
        self.learner.before_step(model, moment)

    def after_optimizer_step(self, model: nn.Module, moment: Moment) -> None:
        self.learner.after_optimizer_step(model, moment)

    def training_state(self, model: nn.Module) -> Mapping[str, Tensor]:
        return self.learner.training_state(model)

    def restore_training_state(self, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        self.learner.restore_training_state(model, tensors)

    def save(self, model: nn.Module, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        self.learner.save(model, folder, tensors)

    def load(self, base: nn.Module, folder: Path) -> nn.Module:
        return self.learner.load(base, folder)

    def loads_with(self) -> Method:
        return self.learner.loads_with()

    def base_alone(self, model: nn.Module) -> AbstractContextManager[None]:
        return self.learner.base_alone(model)

    @property
    def tells(self) -> bool:
        return self.learner.tells

    def merge_weights(self, base: Path, adapter: Path, output: Path, max_shard_bytes: int) -> None:
        self.learner.merge_weights(base, adapter, output, max_shard_bytes)

    def sizes(self) -> tuple[str, ...]:
        return self.learner.sizes()

    def set_size(self, model: nn.Module, size: str) -> None:
        self.learner.set_size(model, size)

    def explain(self, model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Mapping[str, float]:
        return self.learner.explain(model, batches)

    # --- what is its own ------------------------------------------------------------------------------------------

    def code(self) -> tuple[str, ...]:
        return (*super().code(), *self.learner.code())

    def sources(self) -> Mapping[str, str]:
        named = {} if self.teacher == BARE_BASE else {TEACHER: self.teacher}
        return {**self.learner.sources(), **named}

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        self.learner.check(facts, conditions)
        if self.level == "sequence" and conditions.packing:
            raise ConfigError(
                "level: sequence rewrites rows one by one, and packing puts several into one",
                where=f"methods[{self.label}]",
                fix="Set data.packing: false, or level: token",
            )

    def check_modules(self, skeleton: nn.Module, supplies: Supplies = NOTHING) -> None:
        self.learner.check_modules(skeleton, supplies)
        self._refuse_teacher(supplies)

    def attach(self, model: nn.Module, supplies: Supplies = NOTHING) -> nn.Module:
        """The student as it would be without a teacher, from the same random numbers, and the teacher beside it."""
        from tasks.methods._teacher.teacher import adapted_teacher, whole_teacher
        from tasks.methods._teacher.twin import Twin

        where = f"methods[{self.label}]"
        source = supplies.sources.get(TEACHER)
        self._refuse_teacher(supplies)
        if source is not None and source.model is not None:
            attached = self.learner.attach(model, supplies)
            self._hold(attached, whole_teacher(source.model, attached), source, supplies)
            return attached
        twin = Twin(model, where)
        attached = self.learner.attach(model, supplies)
        twin.part_from_student()
        self._hold(attached, adapted_teacher(twin, source), source, supplies)
        return attached

    def _refuse_teacher(self, supplies: Supplies) -> None:
        from tasks.methods._teacher.teacher import refuse_other_base, refuse_other_vocabulary

        source, where = supplies.sources.get(TEACHER), f"methods[{self.label}]"
        if source is None:
            return
        if source.model is None:
            refuse_other_base(source, supplies, where)
        elif self.level == "token":
            refuse_other_vocabulary(source.model, supplies, where)

    def _hold(self, student: nn.Module, teacher: nn.Module, source: Source | None, supplies: Supplies) -> None:
        from tasks.methods._teacher.teacher import DistributionTeacher
        from tasks.methods._teacher.text import TextTeacher
        from tasks.models.loading import load_tokenizer

        if self.level == "token":
            DistributionTeacher(teacher, self.temperature).hold_by(student)
            return
        if supplies.base is None:
            raise ConfigError("level: sequence needs the base's tokenizer", where=f"methods[{self.label}]")
        own = load_tokenizer(supplies.base)
        theirs = load_tokenizer(source.model) if source is not None and source.model is not None else own
        TextTeacher(teacher, theirs, own, self.max_new_tokens).hold_by(student)

    def training_loss(self, model: nn.Module, inputs: Mapping[str, Tensor], window: Window) -> StepLoss:
        """The student's own loss, in which `alpha` of the cross-entropy gives way to the teacher's part.

        A student with a loss of its own (a penalty, sizes) keeps it, at the price of a second forward pass.
        """
        from tasks.methods._teacher.teacher import teacher_of

        own, logits = self.learner.training_loss(model, inputs, window), None
        if own is None:
            logits = answer_logits(model, inputs)
            share = cross_entropy_share(logits, inputs["labels"], window)
            own = StepLoss(share, share)
        taught = teacher_of(model).taught(model, inputs, window, logits)
        return StepLoss(own.total + self.alpha * (taught - own.cross_entropy), own.cross_entropy)
