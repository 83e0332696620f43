"""`tuneline init`: a commented experiment from a look at the data and the model."""

from __future__ import annotations

import json
import re
from pathlib import Path

from configs.checks import EMBEDDED_MODEL
from configs.document import read_value
from configs.experiment import NAME_LENGTH
from configs.look import Kind, Look, look_at
from tasks.foundation.errors import ConfigError
from tasks.methods import parse_method

_PLAIN = re.compile(r"[\w./~][\w./ -]*[\w./]|\w")
_SAYS_NOTHING = frozenset({"train", "training", "trainset", "data", "dataset", "train_data"})
_EVAL_ROWS = 500

_METRICS: dict[Kind, str] = {
    "labels": "accuracy, f1, loss",
    "chinese": "loss, chrf, bleu",
    "text": "loss, bleu, rouge",
    "raw": "loss",
}
_REASONS: dict[Kind, str] = {
    "labels": "the answers are a few short labels, chosen by likelihood",
    "chinese": "free answers, mostly Chinese: characters and Chinese words count",
    "text": "free answers",
    "raw": "raw text has no answers to compare",
}


def suggest(data: Path, model: str, name: str | None = None) -> str:
    """The text of an experiment for a data file and a model (a folder, a hub id, `embedded:tiny-llama`).

    It loads and validates as it is, but for what only the user can know (`<fill in …>`): the commit of a hub model,
    and the meaning of columns that no format knows.

    Raises:
        DataError: the data cannot be read.
        ModelError: the model's folder is not one.
        ConfigError: the name is not usable.
    """
    look = look_at(data, model)
    own_name = _name(name, data)
    sections = (
        _head(data, own_name, look),
        _model(model, look),
        _data(data, look),
        _methods(look),
        _training(look),
        _evaluation(look),
        _registry(own_name),
    )
    return "\n".join(sections)


def _name(name: str | None, data: Path) -> str:
    stem = data.name.partition(".")[0]
    stem = data.absolute().parent.name if stem.lower() in _SAYS_NOTHING else stem
    text = re.sub(r"[^a-z0-9._-]+", "-", (name or stem).lower()).strip("._-")[:NAME_LENGTH]
    if name is not None and text != name:
        allowed = "lower-case letters, digits, '.', '_' and '-', a letter or digit first, 64 at most"
        raise ConfigError(
            f"{json.dumps(name)} is no name", where="name", allowed=allowed, fix=f"Use {text or 'my-run'}"
        )
    return text or "experiment"


def _quoted(text: str) -> str:
    """Text as YAML writes it."""
    if _PLAIN.fullmatch(text) and isinstance(read_value(text, text), str):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


def _head(data: Path, name: str, look: Look) -> str:
    lines = [f"# Written by `tuneline init` after a look at {_quoted(str(data))}: about {look.rows:,} rows."]
    lines += ["# Every key and its default: configs/experiments/template.yaml"]
    if look.bad:
        lines += [f"# Bad rows among the first ones: {len(look.bad)}, for example {_quoted(look.bad[0])}."]
        lines += ["# Repair them, or allow a share of bad rows with data.max_bad_fraction."]
    return "\n".join([*lines, f"name: {_quoted(name)}"])


def _model(model: str, look: Look) -> str:
    lines = ["model:", f"  name_or_path: {_quoted(model)}"]
    if look.facts:
        size = f"{look.facts.parameters:,} parameters, context {look.facts.max_position_embeddings} tokens"
        lines[1] += f" # {_quoted(look.facts.model_type)}, {size}"
    elif model != EMBEDDED_MODEL:
        lines += ["  # Names and branches move, commits do not; the hub shows them under Files > History."]
        lines += [f"  revision: <fill in the commit of huggingface.co/{model}, 40 hex digits>"]
    return "\n".join(lines)


def _data(data: Path, look: Look) -> str:
    fraction = 0.2 if look.rows <= 50 else min(0.1, max(0.001, round(_EVAL_ROWS / look.rows, 3)))
    lines = ["data:", f"  train: {_quoted(str(data))} # format: {look.format}"]
    if look.columns:
        pairs = ", ".join(f"{ours}: {_quoted(theirs)}" for ours, theirs in look.columns.items())
        lines += [f"  columns: {{{pairs}}} # which column is which: check this"]
    lines += [f"  eval_fraction: {fraction:g} # held out by content hash; or name a file: eval: dev.jsonl"]
    lines += [
        f"  max_seq_length: {look.max_seq_length} # tokens, by the longest of the first rows and the model's context"
    ]
    if look.is_tight:
        lines += [
            "  truncation: truncate # too long for the context: the prompt loses its left end, counted; or: drop, error"
        ]
    return "\n".join(lines)


def _methods(look: Look) -> str:
    lines = ["# `tuneline methods` lists all methods and their settings."]
    lines += ["methods:", "  - {kind: none} # the untuned base, which the others are compared with"]
    if look.is_large:
        lines += ["  # full fine-tuning needs about 16 bytes per parameter: - {kind: full}"]
    else:
        lines += [_method("full", "", look)]
    lines += [_method("lora", ", r: 16, lora_alpha: 32", look)]
    if look.is_large:
        lines += [_method("qlora", ", r: 16, lora_alpha: 32", look) + " # the base in 4 bits while it trains"]
    lines += [_method("ia3", "", look)]
    return "\n".join(lines)


def _method(kind: str, settings: str, look: Look) -> str:
    """The rate is the method's own default at the model's size, written out so that it can be changed."""
    rate = f", learning_rate: {parse_method({'kind': kind}).default_learning_rate(look.facts):g}" if look.facts else ""
    return f"  - {{kind: {kind}{settings}{rate}}}"


def _training(look: Look) -> str:
    batch = 1 if look.is_large else 4 if look.max_seq_length > 512 else 8
    accumulation = 8 // batch
    epochs = 1 if look.rows > 20_000 else 3
    steps = max(1, look.rows * epochs // 8)
    lines = ["training:", f"  num_train_epochs: {epochs} # about {steps:,} steps; or max_steps: 300"]
    lines += [f"  per_device_train_batch_size: {batch}"]
    lines += [f"  gradient_accumulation_steps: {accumulation} # 8 rows per optimiser step on one device"]
    lines += [
        f"  save_steps: {max(10, min(500, steps // 5))} # checkpoints; a run that was cut off goes on from the last"
    ]
    if look.is_large:
        lines += ["  gradient_checkpointing: true # less memory, about a third more time"]
    return "\n".join(lines)


def _evaluation(look: Look) -> str:
    lines = ["evaluation:", f"  metrics: [{_METRICS[look.kind]}] # {_REASONS[look.kind]}; the first names the winner"]
    if look.labels:
        lines += [f"  # {look.labels} labels among the first rows; all labels of the training rows are offered"]
    return "\n".join([*lines, f"  max_new_tokens: {look.max_new_tokens}"])


def _registry(name: str) -> str:
    comment = "the winner becomes a new version of it; remove the line to register nothing"
    return f"registry:\n  model: {_quoted(name)} # {comment}\n"
