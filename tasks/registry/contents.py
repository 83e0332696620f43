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
from tasks.methods import Candidate, parse_method
from tasks.models import TOKENIZER_FILES, BaseModel, companion_files, weight_files
from tasks.models.loading import load_tokenizer
from tasks.models.weights import INDEX_FILE
from tasks.registry.values import RegisterRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SERVING = "serving.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_PROBE = Turn(role="user", content="probe")


def fill(request: RegisterRequest, folder: Path) -> None:
    """Put everything that serves the candidate into an empty folder; files are linked where the disk allows it.

    A whole model becomes `model/`. An adapter becomes `adapter/` with `base/`, or, where the base came from the hub,
    with its id and revision and a `tokenizer/`. Only configuration, tokenizer and safetensors files are taken.

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
        where = _adapted(candidate.weights, candidate.base, folder)
    write_durably(
        folder / SERVING, canonical_json({**where, **_loading(candidate), **_prompting(request, tokenizer)}) + "\n"
    )


def _whole(weights: Path, base: BaseModel, folder: Path) -> dict[str, Any]:
    """The model's folder, with the base's tokenizer where training or merging left none."""
    _link(weights, _model_files(weights), folder / "model")
    if not any((weights / name).is_file() for name in TOKENIZER_FILES):
        _link(base.path, _tokenizer_files(base.path), folder / "model")
    return {"base": {"folder": "model", "hub": "", "revision": ""}, "adapter": "", "tokenizer": "model"}


def _adapted(weights: Path, base: BaseModel, folder: Path) -> dict[str, Any]:
    for name in _ADAPTER_FILES:
        if not (weights / name).is_file():
            raise IntegrityError(f"{name} is missing", where=str(weights), fix="Train the cell again")
    _link(weights, _ADAPTER_FILES, folder / "adapter")
    if base.revision and not Path(base.name).exists():
        _link(base.path, _tokenizer_files(base.path), folder / "tokenizer")
        reference = {"folder": "", "hub": base.name, "revision": base.revision}
        return {"base": reference, "adapter": "adapter", "tokenizer": "tokenizer"}
    _link(base.path, _model_files(base.path), folder / "base")
    return {"base": {"folder": "base", "hub": "", "revision": ""}, "adapter": "adapter", "tokenizer": "base"}


def _loading(candidate: Candidate) -> dict[str, Any]:
    """How the weights are loaded: in the precision, and on the kind of base, that the evaluation used."""
    quantization = parse_method(candidate.method).quantization() if candidate.holds == "adapter" else None
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
    virtual = candidate.method.get("num_virtual_tokens", 0) if candidate.holds == "adapter" else 0
    chat = request.data.use_chat_template and bool(tokenizer.chat_template)
    before = None if chat else PlainTemplate.parse(request.data.template).before
    return {
        "before": before,
        "leading_ids": [] if before is None else _leading_ids(renderer, tokenizer, before),
        "end_token_ids": list(renderer.end_token_ids),
        "max_new_tokens": request.max_new_tokens,
        "positions": candidate.base.facts.max_position_embeddings - int(virtual),
        "cut_prompts": request.data.truncation == "truncate",
    }


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
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
        origin = (source / name).resolve()
        try:
            os.link(origin, target / name)
        except OSError:
            shutil.copyfile(origin, target / name)
