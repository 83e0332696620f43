"""What a cell stands on when it goes on from earlier results: its base, and whether they belong to it."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.foundation.errors import ConfigError
from tasks.methods import INIT_FROM, Method, Source
from tasks.models.values import BaseModel


def base_of(method: Method, sources: Mapping[str, Source], base: BaseModel) -> BaseModel:
    """The base of a cell: the experiment's, or the whole model that `init_from` names, which takes its place.

    Nothing is loaded twice then: the adapter lies on the model that was tuned, or the model itself trains on.

    Raises:
        ConfigError: a whole model with another tokenizer, a method that cannot go on from what there is, or an
            adapter of another base.
    """
    start = sources.get(INIT_FROM)
    if start is not None:
        _refuse_unfit(method, start)
        base = _in_place_of(base, start, f"methods[{method.label}].{INIT_FROM}")
    for name, source in sources.items():
        _refuse_other_base(source, base, f"methods[{method.label}].{name}")
    return base


def _refuse_unfit(method: Method, start: Source) -> None:
    where = f"methods[{method.label}].{INIT_FROM}"
    if method.holds == "nothing":
        fix = "Leave init_from out; model.name_or_path is the model that is measured untuned"
        what = f"{method.kind} trains nothing, so nothing goes on from {start.reference}"
        raise ConfigError(what, where=where, fix=fix)
    if method.holds == "model" and start.holds == "adapter":
        what = f"{method.kind} trains the model itself, and {start.reference} is an adapter"
        raise ConfigError(what, where=where, fix="Name the merged model's folder, or a method that trains an adapter")


def _in_place_of(base: BaseModel, start: Source, where: str) -> BaseModel:
    if start.model is None:
        return base
    if start.model.tokenizer_digest != base.tokenizer_digest:
        what = f"{start.reference} has another tokenizer than model.name_or_path, by which the rows became tokens"
        raise ConfigError(what, where=where, fix=f"Set model.name_or_path: {start.path} instead of init_from")
    return start.model


def _refuse_other_base(source: Source, base: BaseModel, where: str) -> None:
    if source.holds == "adapter" and source.base_digest not in ("", base.digest):
        what = f"{source.reference} is an adapter of another base ({source.base_digest[:12]}) than {base.name}"
        fix = "Set model.name_or_path to the base that it was trained on"
        raise ConfigError(f"{what} ({base.digest[:12]})", where=where, fix=fix)
