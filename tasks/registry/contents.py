"""The package folder: weights, tokenizer and `serving.json`, as plain files that outlive this project."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts import write_durably
from tasks.data.plain_template import PlainTemplate
from tasks.data.templates import Renderer
from tasks.data.values import Turn
from tasks.foundation.digests import canonical_json
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Candidate,
    adapter_files,
    base_quantization,
    parse_method,
    without_references,
)
from tasks.models import TOKENIZER_FILES, BaseModel, companion_files, weight_files
from tasks.models.loading import load_tokenizer
from tasks.models.weights import INDEX_FILE, read_json
from tasks.registry.intact import SERVING
from tasks.registry.shipping import is_plain_peft, ship
from tasks.registry.values import RegisterRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = Turn(role="user", content="probe")


def fill(request: RegisterRequest, folder: Path) -> None:
    """Put everything that serves the candidate into an empty folder; files are linked where the disk allows it.

    A whole model becomes `model/`. An adapter becomes `adapter/` with `base/`, or, where the base came from the hub
    and has its own vocabulary, with its id and revision and a `tokenizer/`; one that PEFT alone cannot load brings the
    `code/` that can. Beside it only configuration, tokenizer and safetensors files are taken.

    Raises:
        ConfigError: the untuned base, which is nobody's result.
        IntegrityError: a file is missing.
    """
    candidate = request.candidate
    if candidate.holds == "nothing" or candidate.weights is None:
        raise ConfigError(
            f"{candidate.label} is the untuned base", where="registry.model", fix="Register a trained cell"
        )
    tokenizer = load_tokenizer(candidate.base)
    if candidate.holds == "model":
        where = _whole(candidate.weights, candidate.base, folder)
    else:
        where = _adapted(candidate.weights, candidate.base, folder) | _method(request, candidate.weights, folder)
    write_durably(
        folder / SERVING, canonical_json({**where, **_loading(candidate), **_prompting(request, tokenizer)}) + "\n"
    )


def _whole(weights: Path, base: BaseModel, folder: Path) -> dict[str, Any]:
    """The model's folder, with the base's tokenizer where training or merging left none."""
    _link(weights, _model_files(weights), folder / "model")
    if not any((weights / name).is_file() for name in TOKENIZER_FILES):
        _link(base.path, _tokenizer_files(base.path), folder / "model")
    return {"base": {"folder": "model", "hub": "", "revision": ""}, "adapter": "", "tokenizer": "model", "loader": None}


def _adapted(weights: Path, base: BaseModel, folder: Path) -> dict[str, Any]:
    names = adapter_files(weights)
    if ADAPTER_CONFIG not in names or not any(name.endswith(".safetensors") for name in names):
        missing = ADAPTER_WEIGHTS if ADAPTER_CONFIG in names else ADAPTER_CONFIG
        raise IntegrityError(f"{missing} is missing", where=str(weights), fix="Train the cell again")
    _link(weights, names, folder / "adapter")
    if base.revision and not base.new_tokens and not Path(base.name).exists():
        _link(base.path, _tokenizer_files(base.path), folder / "tokenizer")
        reference = {"folder": "", "hub": base.name, "revision": base.revision}
        return {"base": reference, "adapter": "adapter", "tokenizer": "tokenizer"}
    _link(base.path, _model_files(base.path), folder / "base")
    return {"base": {"folder": "base", "hub": "", "revision": ""}, "adapter": "adapter", "tokenizer": "base"}


def _method(request: RegisterRequest, weights: Path, folder: Path) -> dict[str, Any]:
    """The settings that made the adapter, and the code that loads it where PEFT alone cannot."""
    method = parse_method(request.candidate.method).loads_with()
    settings = without_references(method.model_dump(mode="json", exclude={"name"}), request.sources)
    loader = None if is_plain_peft(method, weights) else ship(method, settings, folder)
    return {"settings": settings, "loader": loader}


def _loading(candidate: Candidate) -> dict[str, Any]:
    """How the weights are loaded: in the precision, and on the kind of base, that the evaluation used."""
    quantization = (
        base_quantization(parse_method(candidate.method), candidate.base.quantization)
        if candidate.holds == "adapter"
        else None
    )
    return {
        "method": candidate.method.get("kind"),
        "dtype": candidate.base.dtype,
        "stored_dtype": candidate.base.facts.dtype,
        "attn_implementation": candidate.base.attn_implementation,
        "quantization": None if quantization is None else quantization.model_dump(mode="json"),
    }


def _prompting(request: RegisterRequest, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """How a prompt becomes ids and where an answer ends, without a word of this project's code.

    `before` is the plain template up to the answer, None for the tokenizer's chat template.
    """
    candidate, renderer = request.candidate, Renderer(tokenizer, request.data)
    virtual = _virtual_tokens(candidate.weights) if candidate.holds == "adapter" and candidate.weights else 0
    chat = request.data.use_chat_template and bool(tokenizer.chat_template)
    before = None if chat else PlainTemplate.parse(request.data.template).before
    return {
        "before": before,
        "leading_ids": [] if before is None else _leading_ids(renderer, tokenizer, before),
        "end_token_ids": list(renderer.end_token_ids),
        "max_new_tokens": request.max_new_tokens,
        "positions": candidate.base.facts.max_position_embeddings - virtual,
        "cut_prompts": request.data.truncation == "truncate",
    }


def _virtual_tokens(weights: Path) -> int:
    """Positions that the adapter takes, by its own file: its settings may stand inside those of another method."""
    config = read_json(weights / ADAPTER_CONFIG)
    return int(config.get("num_virtual_tokens") or config.get("parts", {}).get("num_virtual_tokens") or 0)


def _leading_ids(renderer: Renderer, tokenizer: PreTrainedTokenizerBase, before: str) -> list[int]:
    """What the renderer puts in front of the text's own ids, such as a begin token; chat templates write their own."""
    text = PlainTemplate(before=before, after="").render(_PROBE.content, "")
    ids, own = renderer.prompt_ids([_PROBE]), tokenizer([text], add_special_tokens=False)["input_ids"][0]
    return ids[: len(ids) - len(own)]


def _model_files(folder: Path) -> tuple[str, ...]:
    index = (INDEX_FILE,) if (folder / INDEX_FILE).is_file() else ()
    return (*companion_files(folder), *weight_files(folder), *index)


def _tokenizer_files(folder: Path) -> tuple[str, ...]:
    return tuple(name for name in TOKENIZER_FILES if (folder / name).is_file())


def _link(source: Path, names: Iterable[str], target: Path) -> None:
    """Hard links cost no space; across file systems they become copies."""
    for name in names:
        origin = (source / name).resolve()
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(origin, target / name)
        except OSError:
            shutil.copyfile(origin, target / name)
