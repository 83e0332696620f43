"""What the code says of a method, as plain values for a terminal and for a page."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from tasks.methods import Method, all_methods, parse_method
from tasks.models import BaseModelFacts
from tasks.models.values import Quantization
from tasks.training.engines import ENGINES

Answer = Literal["yes", "no", "by settings", "-"]

SIZES: Mapping[str, int] = {
    "5 M": 5_000_000,
    "30 M": 30_000_000,
    "100 M": 100_000_000,
    "3 B": 3_000_000_000,
    "7 B": 7_000_000_000,
}
"""Name -> parameters of the base for which default rates are shown; below the first and above the last they stay."""
MEMORY_LEGEND = (
    "bytes beside the forward pass: N all parameters of the base, n trainable ones, b bytes per base weight, d hidden "
    "size, d_kv size of keys, d_ff inner size of the feed-forward, L blocks, r rank, m bottleneck, P virtual tokens, "
    "h width of an encoder"
)
_QUANTIZATIONS = (Quantization(bits=4), Quantization(bits=4, quant_type="fp4"), Quantization(bits=8))
_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "settings", None: "nothing"}
_PLURALS = {"whole number": "whole numbers", "number": "numbers", "text": "texts"}
_BOUNDS = ((annotated_types.Gt, "gt", "> "), (annotated_types.Ge, "ge", ">= "), (annotated_types.Lt, "lt", "< "))
_LAST_BOUND = (annotated_types.Le, "le", "<= ")


class Setting(NamedTuple):
    """One setting of a method."""

    name: str
    default: str
    """As YAML writes it; `required` where it must be given."""
    allowed: str
    text: str


class MethodFacts:
    """One method with its default settings, in words."""

    def __init__(self, method: type[Method]) -> None:
        self.method = method
        self.info = method.info
        self.kind = str(method.model_fields["kind"].default)

    @cached_property
    def settings(self) -> Method:
        """The defaults, and the example of what must be said beside them."""
        return parse_method({"kind": self.kind, **self.method.example})

    @property
    def complete(self) -> bool:
        """Whether a user need say nothing but the kind."""
        return not self.method.example

    @property
    def papers(self) -> tuple[str, ...]:
        """arXiv ids."""
        return tuple(re.findall(r"\d{4}\.\d{4,5}", self.info.paper))

    @property
    def about(self) -> str:
        """The docstring of the class, as one text per paragraph."""
        paragraphs = (self.method.__doc__ or "").split("\n\n")
        return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)

    @property
    def merges(self) -> Answer:
        if self.settings.holds != "adapter":
            return "-"
        if self.info.mergeable and self._decides_itself("unmergeable"):
            return "by settings"
        return "no" if self.settings.unmergeable() else "yes"

    @property
    def merges_in_words(self) -> str:
        if self._is_open("unmergeable"):
            return "by its settings"
        if self.merges == "-":
            return "nothing to merge: it leaves " + ("a whole model" if self.info.holds == "model" else "nothing")
        reason = self.settings.unmergeable()
        with_defaults = f"no: {reason}" if reason else "yes, into the float base"
        return f"with the defaults {with_defaults}" if self.merges == "by settings" else with_defaults

    @property
    def quantized(self) -> Answer:
        """Whether the base may be quantised."""
        if self._is_open("refuses_quantization"):
            return "by settings"
        if self.settings.quantization() is not None:
            return "yes"
        refused = [self.settings.refuses_quantization(quantization) for quantization in _QUANTIZATIONS]
        if any(refused):
            return "no" if all(refused) else "by settings"
        return "by settings" if self._decides_itself("refuses_quantization") else "yes"

    @property
    def quantized_in_words(self) -> str:
        if self._is_open("refuses_quantization"):
            return "by its settings"
        own = self.settings.quantization()
        if own is not None:
            return f"always: it loads the base in {own.name} itself"
        refused = {each.name: self.settings.refuses_quantization(each) for each in _QUANTIZATIONS}
        fine = [name for name, reason in refused.items() if not reason]
        if not fine:
            return f"no: {next(iter(refused.values()))}"
        reasons = [f"; not {name}: {reason}" for name, reason in refused.items() if reason]
        varies = "with the defaults " if self.quantized == "by settings" else ""
        return f"{varies}{', '.join(fine)}{''.join(reasons)}"

    @property
    def zero3(self) -> Answer:
        if self.info.holds == "nothing":
            return "-"
        if self._decides_itself("refuses_engine"):
            return "by settings"
        return "no" if self.settings.refuses_engine("zero3") else "yes"

    @property
    def engines_in_words(self) -> str:
        if self._is_open("refuses_engine"):
            return "by its settings"
        refused = {engine: reason for engine in ENGINES if (reason := self.settings.refuses_engine(engine))}
        reasons = dict.fromkeys(refused.values())
        said = [f"not {', '.join(name for name in refused if refused[name] == reason)}: {reason}" for reason in reasons]
        varies = "with the defaults " if self.zero3 == "by settings" else ""
        return varies + ("; ".join(said) if said else f"all ({', '.join(ENGINES)})")

    @property
    def checkpointing(self) -> Answer:
        known = self.info.gradient_checkpointing
        return known if isinstance(known, str) else "yes" if known else "no"

    def rate(self, parameters: int) -> str:
        """The default learning rate on a base of this size; `-` where nothing trains."""
        rate = self.settings.default_learning_rate(_sized(parameters))
        return re.sub(r"e-0(\d)", r"e-\1", f"{rate:.2g}") if rate else "-"

    def own_settings(self) -> Iterator[Setting]:
        """Those that the method adds, or of which it says something else than all methods do."""
        common = {setting.name: setting for setting in common_settings()}
        return (setting for setting in _settings(self.method) if setting != common.get(setting.name))

    def _is_open(self, question: str) -> bool:
        """Whether an answer depends on what a user must say first."""
        return not self.complete and self._decides_itself(question)

    def _decides_itself(self, question: str) -> bool:
        return getattr(self.method, question) is not getattr(Method, question)


def known_methods() -> dict[str, MethodFacts]:
    """Kind -> facts, sorted."""
    return {facts.kind: facts for facts in map(MethodFacts, all_methods())}


def common_settings() -> list[Setting]:
    """Those of every method."""
    return list(_settings(Method))


def _settings(method: type[Method]) -> Iterator[Setting]:
    for name, field in method.model_fields.items():
        if name != "kind":
            text = " ".join((field.description or "").split())
            yield Setting(name, _default(field), _allowed(field.annotation, field.metadata), text)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _yaml(field.get_default(call_default_factory=True))


def _yaml(value: Any) -> str:
    """As a user would write it on one line."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(part)}" for name, part in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    """The type and its bounds in words; that a setting may be absent is its default's to say."""
    words = " or ".join(dict.fromkeys(_types(annotation)))
    bounds = _bounds(metadata)
    return f"{words} {bounds}" if bounds else words


def _bounds(metadata: list[Any]) -> str:
    return ", ".join(
        f"{sign}{getattr(mark, attribute):g}"
        for kind, attribute, sign in (*_BOUNDS, _LAST_BOUND)
        for mark in metadata
        if isinstance(mark, kind)
    )


def _types(annotation: Any) -> Iterator[str]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for part in arguments:
            if part is not type(None):
                yield from _types(part)
    elif origin is Literal:
        yield from map(_yaml, arguments)
    elif origin in (tuple, list):
        yield "list of " + " or ".join(_PLURALS.get(word, word) for word in _types(arguments[0]))
    elif origin in (dict, Mapping):
        yield "settings"
    elif hasattr(annotation, "__metadata__"):
        inner, *marks = arguments
        yield _allowed(inner, marks)
    else:
        yield _WORDS.get(annotation, getattr(annotation, "__name__", "settings").lower())


def _sized(parameters: int) -> BaseModelFacts:
    """A base of which nothing but its size matters."""
    return BaseModelFacts(
        model_type="llama",
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=128,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        parameters=parameters,
        dtype="float32",
    )
