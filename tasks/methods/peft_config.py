"""Any PEFT configuration: adapter_config.json of every type that PEFT registers, or a whole folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.foundation.errors import ConfigError
from tasks.methods._adaption import refuse_family
from tasks.methods._peft_any.build import BuiltPeft
from tasks.methods._peft_any.file import find_problem, heeded
from tasks.methods._peft_any.suite import cells_of
from tasks.methods._peft_any.types import TRAITS, UNMERGEABLE_FIELDS, is_set
from tasks.methods._prompts import refuse_checkpointing, refuse_virtual_tokens
from tasks.methods._rates import rate_between
from tasks.methods._values import Conditions, MethodInfo
from tasks.models.values import BaseModelFacts, Quantization

_WITH_TEXT = ("CARTRIDGE", "CPT", "PREFIX_TUNING")
_WITH_TOKENS = ("LORA", "TRAINABLE_TOKENS")
_FROM_BASE = ("pissa", "olora", "mica")
_GRADIENTS = "it reads every gradient after a step, and this engine keeps but parts of them, or none"
_SHARED = "it is not tried where ranks share the weights; under ddp, zero0, zero1 and zero2 it is like any adapter"


class AnyPeft(BuiltPeft):
    """Settings of `peft_config`: a file, and what it cannot say.

    The content of the file is part of what a cell is, its place is not. Sizes of the model that it was made on, its
    name, paths, versions and tokenizers are not heeded; the base decides (logged). Rates, decay and steps of a
    `training_params.json` beside it are taken over; other keys of that are named in a warning.
    """

    example: ClassVar[Mapping[str, Any]] = {"config": {"peft_type": "LORA"}}
    info: ClassVar[MethodInfo] = MethodInfo(
        trains="what adapter_config.json says: any of the types of PEFT",
        paper="-",
        holds="adapter",
        mergeable=True,
        memory="b N + 16 n, b bytes per base weight, n by type",
        gradient_checkpointing="by settings",
        quantized_base=True,
        families="by type: ADAPTION_PROMPT gpt2, llama, mistral; the others all whose targets they name",
        traps=(
            "XLORA needs adapters that are trained already, and is refused",
            "MULTITASK_PROMPT_TUNING and POLY train on one task and are saved as PROMPT_TUNING and LORA",
            "ADAMSS, FROD, OSF and PSOFT decompose the base again whenever they are loaded",
            "token indices in a file belong to another tokenizer: name `tokens`",
            "not merged: prompts, ADAPTION_PROMPT, BEFT, LILY, SHADOW, and files with bias or modules_to_save",
        ),
    )

    kind: Literal["peft_config"] = "peft_config"
    path: str | None = None
    """An `adapter_config.json`, the folder that holds it, or a folder of many: one cell for each, named by its folder.
    Only read once; what it says then stands in `config`."""
    leave_out: tuple[str, ...] = ()
    """Folders of such a folder of many that are not run, as patterns (`lora/*`)."""
    config: dict[str, Any] = Field(default_factory=dict)
    """What `adapter_config.json` says, `peft_type` first of all; in place of `path`."""

    @classmethod
    def expand(cls, settings: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """One cell's settings, without a path, for each configuration in a folder."""
        if settings.get("path") is None:
            return [settings]
        where = f"methods[{settings.get('name') or settings.get('kind')}].path"
        if settings.get("config"):
            raise ConfigError("path and config exclude each other", where=where, fix="Keep one of them")
        return cells_of(settings, where)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        """A path that nobody expanded: it must stand for one configuration."""
        if not isinstance(data, Mapping) or data.get("path") is None:
            return data
        cells = cls.expand(data)
        if len(cells) != 1 or cells[0].get("kind") != data.get("kind"):
            raise ValueError(f"path: stands for {len(cells)} cells, expand it first")
        return cells[0]

    @field_validator("config")
    @classmethod
    def _known(cls, config: dict[str, Any]) -> dict[str, Any]:
        if not config:
            raise ValueError("config: names nothing to train. Set path: …/adapter_config.json")
        if problem := find_problem(config):
            raise ValueError(f"config: {problem}")
        return heeded(config)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if not self.config:
            raise ValueError("path: is missing. Name an adapter_config.json, the folder that holds it, or one of many")
        if self.leave_out:
            raise ValueError("leave_out: there is nothing to leave out of one configuration")
        kind, indices = self.peft_type, self.config.get("token_indices")
        if self.text is not None and kind not in _WITH_TEXT:
            raise ValueError(f"text: {kind} does not start from words, {', '.join(_WITH_TEXT)} do")
        if self.text is not None and self.config.get("prefix_projection"):
            raise ValueError("text: a prefix with projection does not start from words. Set prefix_projection: false")
        if self.tokens is not None and kind not in _WITH_TOKENS:
            raise ValueError(f"tokens: {kind} trains no single tokens, {' and '.join(_WITH_TOKENS)} do")
        if kind == "TRAINABLE_TOKENS" and not (indices or self.tokens):
            raise ValueError("tokens: nothing would train. Name tokens, for example ['<s>', '</s>']")
        return self

    @property
    def label(self) -> str:
        return self.name or f"{self.kind} {self.peft_type}"

    def default_learning_rate(self, facts: BaseModelFacts) -> float:
        """By type; `lora` variants and prefixes as the methods with a kind of their own."""
        traits = TRAITS[self.peft_type]
        small, large = traits.small, traits.large
        if self.peft_type == "PREFIX_TUNING" and self.config.get("prefix_projection"):
            small, large = 3e-2, 1e-3
        if self.peft_type == "LORA" and (self.config.get("use_dora") or self.config.get("use_rslora")):
            small, large = 3e-3 if self.config.get("use_rslora") else 5e-3, 1e-4
        return rate_between(facts, small=small, large=large)

    def unmergeable(self) -> str:
        if reason := TRAITS[self.peft_type].unmergeable:
            return f"{self.peft_type}: {reason}"
        if self.config.get("bias", "none") != "none":
            return "biases of the base train beside the adapted layers"
        if (start := self.config.get("init_lora_weights")) in _FROM_BASE[:2]:
            return (
                f"{start} moves a part of the base into the adapter; {{kind: lora, init_lora_weights: {start}}} merges"
            )
        return next((reason for name, reason in UNMERGEABLE_FIELDS.items() if is_set(self.config, name)), "")

    def refuses_engine(self, engine: str) -> str:
        traits = TRAITS[self.peft_type]
        reads_gradients = traits.whole_gradients and (self.peft_type != "ADAMSS" or self.config.get("use_asa"))
        if reads_gradients and engine != "ddp":
            return _GRADIENTS
        return _SHARED if engine in ("zero3", "fsdp2") and not traits.shared_weights else ""

    def refuses_quantization(self, quantization: Quantization) -> str:
        start = self.config.get("init_lora_weights")
        if self.config.get("modules_to_save") or start in _FROM_BASE:
            return "it works on the base's own weights, which must be floats"
        if start == "orthogonal":
            return "init_lora_weights: orthogonal makes A and B in the dtype of the weights, integers (take gaussian)"
        if self.config.get("use_dora") and quantization.bits == 8:
            return "use_dora: PEFT loses the scales of 8-bit weights when it measures DoRA's magnitudes (take nf4)"
        good = ", ".join(sorted(kind for kind, traits in TRAITS.items() if traits.quantized))
        return (
            ""
            if TRAITS[self.peft_type].quantized
            else f"PEFT's {self.peft_type} computes on float weights; not so {good}"
        )

    def check(self, facts: BaseModelFacts, conditions: Conditions) -> None:
        where, traits = f"methods[{self.label}]", TRAITS[self.peft_type]
        if traits.prompt:
            ids = self.config.get("cpt_token_ids") or [0]
            tokens = len(ids) if self.peft_type == "CPT" else int(self.config.get("num_virtual_tokens") or 0)
            refuse_virtual_tokens(tokens, facts, conditions, where)
        if not traits.checkpointing:
            refuse_checkpointing(self.peft_type, conditions, where)
        if self.peft_type == "ADAPTION_PROMPT":
            refuse_family(facts, where)
        self._check_indices(facts, where)

    def _check_indices(self, facts: BaseModelFacts, where: str) -> None:
        """Tokens and blocks that the base does not have."""
        bounds = {
            "token_indices": facts.vocab_size if self.tokens is None else None,
            "trainable_token_indices": facts.vocab_size if self.tokens is None else None,
            "cpt_token_ids": facts.vocab_size if self.text is None else None,
            "layers_to_transform": facts.num_hidden_layers,
        }
        for name, bound in bounds.items():
            value = self.config.get(name)
            listed = [value] if isinstance(value, int) else value if isinstance(value, list) else []
            beyond = [index for index in listed if bound is not None and not -1 < index < bound]
            if beyond:
                other = "blocks" if name == "layers_to_transform" else "tokens"
                fix = "Name blocks that it has" if other == "blocks" else "Name `tokens` or `text` instead"
                raise ConfigError(
                    f"{name}: {beyond[0]} is beyond this base's {bound} {other}",
                    where=where,
                    allowed=f"0 to {bound - 1 if bound else 0}",
                    fix=fix,
                )
