"""Find the base model, refuse what cannot work or is not safe, and digest it. No torch, no transformers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from tasks.foundation.digests import digest_tree
from tasks.foundation.errors import ModelError
from tasks.models.facts import read_facts
from tasks.models.settings import ModelSettings
from tasks.models.values import BaseModel
from tasks.models.weights import INDEX_FILE, read_header, read_json, weight_files

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
CONFIG_FILES = ("config.json", "generation_config.json")


def companion_files(folder: Path) -> tuple[str, ...]:
    """Names of the files of a model folder beside the weights: configuration and tokenizer, sorted."""
    return tuple(name for name in sorted((*CONFIG_FILES, *TOKENIZER_FILES)) if (folder / name).is_file())


def base_files(folder: Path) -> tuple[str, ...]:
    """Names of the files that `BaseModel.digest` covers: weights with their index, configuration, tokenizer; sorted.

    Raises:
        ModelError: the weights are not complete.
    """
    index = (INDEX_FILE,) if (folder / INDEX_FILE).is_file() else ()
    return tuple(sorted({*companion_files(folder), *weight_files(folder), *index}))


def resolve_base(settings: ModelSettings, folder: Path | None = None) -> BaseModel:
    """Check a local folder and name it by its content.

    Every byte is hashed on every call (a cache keyed by mtime could be fooled): about 0.5-2 s per GB.

    Args:
        folder: where an embedded or downloaded model lies; `settings.name_or_path` itself when absent.

    Raises:
        ModelError: missing, incomplete, unsafe, quantised, damaged, no causal language model, or tokenizer and
            embedding do not fit.
    """
    path = _existing(Path(settings.name_or_path) if folder is None else folder, settings)
    config = _checked_config(path)
    names = weight_files(path)
    headers = [read_header(path / name) for name in names]
    facts = read_facts(path, config, {name: stored for header in headers for name, stored in header.items()})
    tokenizer = tuple(name for name in TOKENIZER_FILES if (path / name).is_file())
    _check_tokenizer(path, tokenizer, facts.vocab_size)
    return BaseModel(
        name=settings.name_or_path,
        path=path.resolve(),
        revision=settings.revision or "",
        digest=digest_tree(path, base_files(path)),
        tokenizer_digest=digest_tree(path, tokenizer),
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
        quantization=settings.quantized(),
        facts=facts,
    )


def _existing(path: Path, settings: ModelSettings) -> Path:
    if path.is_dir():
        return path
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, siblings, n=1)
    fix = f"Did you mean {path.parent / close[0]}?" if close else "Check the path (relative to the working directory)"
    if settings.name_or_path.count("/") == 1 and not close:
        fix += ", or add `revision: <40 hex digits>` if it is a hub id"
    problem = "is not a folder" if path.exists() else "does not exist"
    raise ModelError(f"{path} {problem}", where="model.name_or_path", fix=fix)


def _checked_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        raise ModelError("no config.json", where=str(path), fix="Give a folder that save_pretrained wrote")
    config = read_json(path / "config.json")
    where = str(path / "config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if (path / name).is_file():
            _refuse_foreign_code(read_json(path / name), str(path / name))
    if "quantization_config" in config:
        raise ModelError(
            "a quantised checkpoint cannot be a base: merging and full fine-tuning need the float weights",
            where=where,
            fix="Take the float checkpoint; {kind: qlora} quantises it while it trains",
        )
    names = config.get("architectures") or ["none named"]
    if config.get("is_encoder_decoder") or not str(names[0]).endswith(("ForCausalLM", "LMHeadModel")):
        raise ModelError(
            f"not a causal language model (architectures: {', '.join(map(str, names))})",
            where=where,
            allowed="*ForCausalLM and *LMHeadModel",
            fix="Choose a decoder model",
        )
    return config


def _refuse_foreign_code(config: dict[str, Any], where: str) -> None:
    """No repository may bring code (CVE-2026-4372 and its class): nothing here ever trusts remote code."""
    for key in ("auto_map", "custom_pipelines", "_attn_implementation_internal"):
        if key in config:
            raise ModelError(
                f"{key} asks for code of its own", where=where, fix=f"Remove {key} or choose another model"
            )
    for key in ("attn_implementation", "_attn_implementation"):
        if "/" in str(config.get(key, "")):
            raise ModelError(
                f"{key}: {config[key]!r} would fetch a kernel from a hub",
                where=where,
                fix=f"Remove {key} from the file",
            )
    for value in config.values():
        if isinstance(value, dict):
            _refuse_foreign_code(value, where)


def _check_tokenizer(path: Path, names: tuple[str, ...], embedding_rows: int) -> None:
    if not set(names) & set(_VOCABULARIES):
        raise ModelError(
            "no tokenizer", where=str(path), allowed=", ".join(_VOCABULARIES), fix="Add the tokenizer's files"
        )
    if "tokenizer.json" not in names:
        return
    largest = _largest_token_id(read_json(path / "tokenizer.json"))
    if largest >= embedding_rows:
        raise ModelError(
            f"the tokenizer knows token {largest}, the embedding has {embedding_rows} rows: they are not a pair",
            where=str(path / "tokenizer.json"),
            fix="Take the tokenizer that belongs to these weights",
        )


def _largest_token_id(tokenizer: dict[str, Any]) -> int:
    """Vocabularies are mappings (BPE, WordPiece: token -> id) or lists (Unigram: position is the id)."""
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    return max([*ids, *(token["id"] for token in tokenizer.get("added_tokens", []))], default=-1)
