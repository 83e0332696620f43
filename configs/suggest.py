"""`tuneline init`: a commented experiment from a look at the data and the model."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Literal, NamedTuple

from configs.checks import EMBEDDED_MODEL
from configs.document import read_value
from configs.experiment import NAME_LENGTH
from configs.first_rows import fields_of, first_rows, raw_rows
from tasks.data.formats import Content
from tasks.data.peek import peek
from tasks.data.readers import RawRecord
from tasks.data.settings import Columns
from tasks.foundation.errors import ConfigError, DataError
from tasks.methods import parse_method
from tasks.models import BaseModelFacts, resolve_base
from tasks.models.settings import ModelSettings

_PLAIN = re.compile(r"[\w./~][\w./ -]*[\w./]|\w")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_SAYS_NOTHING = frozenset({"train", "training", "trainset", "data", "dataset", "train_data"})
_LABELS_AT_MOST = 20
_LONGEST_LABEL = 40
_EVAL_ROWS = 500
_LARGE = 1_000_000_000
_SMALL_VOCABULARY = 5_000
_UNKNOWN_CONTEXT = 2048

Kind = Literal["labels", "chinese", "text", "raw"]
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


class Look(NamedTuple):
    """What the first rows and the model's files say."""

    kind: Kind
    format: str
    columns: Columns
    rows: int
    """Estimated number of all rows."""
    row_bytes: int
    answer_bytes: int
    """UTF-8 bytes of the longest row and answer among the first."""
    labels: int
    bad: tuple[str, ...]
    facts: BaseModelFacts | None
    """None for a model that is not here yet."""


def suggest(data: Path, model: str, name: str | None = None) -> str:
    """The text of an experiment for a data file and a model (a folder, a hub id, `embedded:tiny-llama`).

    It loads and validates as it is, but for what only the user can know (`<fill in …>`): the commit of a hub model,
    and the meaning of columns that no format knows.

    Raises:
        DataError: the data cannot be read.
        ModelError: the model's folder is not one.
        ConfigError: the name is not usable.
    """
    facts = _facts(model)
    look = _look(data, facts)
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


def _facts(model: str) -> BaseModelFacts | None:
    is_hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model) and not Path(model).exists()
    if model == EMBEDDED_MODEL or (is_hub_id and not Path(model).parent.is_dir()):
        return None
    return resolve_base(ModelSettings(name_or_path=model)).facts


def _look(data: Path, facts: BaseModelFacts | None) -> Look:
    first = peek(data)
    records, _ = raw_rows(data)
    columns = first.mapping if first.format else _guessed_columns(records)
    if any(column.startswith("<fill in") for column in columns.values()):
        longest = max(len(str(record.fields).encode()) for record in records)
        return Look("text", "unknown", columns, first.estimated_rows, longest, longest, 0, first.bad, facts)
    rows = first_rows(data, None, columns)
    if not rows.rows:
        raise DataError("none of the first rows can be used", where=str(data), fix=f"First: {rows.bad[0]}")
    answers = [_answer(row) for row in rows.rows]
    longest = max(len(_text(row).encode("utf-8")) for row in rows.rows)
    longest_answer = max(len(answer.encode("utf-8")) for answer in answers)
    kind = _kind(rows.rows, answers)
    labels = len(set(answers)) if kind == "labels" else 0
    bad = tuple(rows.bad)
    return Look(kind, rows.format, columns, first.estimated_rows, longest, longest_answer, labels, bad, facts)


def _guessed_columns(records: list[RawRecord]) -> Columns:
    """Two columns of text are a prompt and its answer; of more, only the user knows."""
    fields = fields_of(records)
    order = [name for name in records[0].fields if name in fields]
    texts = [name for name in order if all(isinstance(record.fields.get(name), str) for record in records)]
    if len(texts) == 2:
        return {"prompt": texts[0], "completion": texts[1]}
    choices = " or ".join(order[:12])
    return {
        "prompt": f"<fill in the column with the input: {choices}>",
        "completion": f"<fill in the column with the answer: {choices}>",
    }


def _answer(row: Content) -> str:
    return row if isinstance(row, str) else row[-1].content


def _text(row: Content) -> str:
    return row if isinstance(row, str) else "\n".join(turn.content for turn in row)


def _kind(rows: tuple[Content, ...], answers: list[str]) -> Kind:
    if all(isinstance(row, str) for row in rows):
        return "raw"
    labels = set(answers)
    few = 2 <= len(labels) <= min(_LABELS_AT_MOST, len(answers) // 3)
    if few and max(map(len, labels)) <= _LONGEST_LABEL:
        return "labels"
    letters = sum(character.isalpha() for answer in answers for character in answer)
    chinese = sum(len(_CHINESE.findall(answer)) for answer in answers)
    return "chinese" if 2 * chinese > letters else "text"


def _tokens(size: int, look: Look, step: int) -> int:
    """A careful guess from UTF-8 bytes, one tenth on top, rounded up: small vocabularies cut finer."""
    small = look.facts is not None and look.facts.vocab_size < _SMALL_VOCABULARY
    return step * math.ceil(1.1 * size / (1.2 if small else 2.5) / step)


def _context(look: Look) -> int:
    return look.facts.max_position_embeddings if look.facts else _UNKNOWN_CONTEXT


def _max_new_tokens(look: Look) -> int:
    return min(512, _context(look) // 2, max(8, _tokens(look.answer_bytes, look, 8)))


def _max_seq_length(look: Look) -> int:
    return min(_context(look), _tokens(look.row_bytes, look, 64) + 32)


def _is_tight(look: Look) -> bool:
    """Whether a long row, or a long prompt with an answer as long as allowed, may exceed the model's context."""
    prompt = _tokens(max(0, look.row_bytes - look.answer_bytes), look, 8)
    return _max_seq_length(look) >= _context(look) or prompt + _max_new_tokens(look) > _context(look)


def _is_large(look: Look) -> bool:
    return look.facts is not None and look.facts.parameters >= _LARGE


def _quoted(text: str) -> str:
    """Text as YAML writes it."""
    if _PLAIN.fullmatch(text) and isinstance(read_value(text, text), str):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _head(data: Path, name: str, look: Look) -> str:
    lines = [f"# Written by `tuneline init` after a look at {_quoted(str(data))}: about {look.rows:,} rows."]
    lines += ["# Every key and its default: configs/experiments/template.yaml"]
    if look.bad:
        lines += [f"# Bad rows among the first ones: {len(look.bad)}, for example {_quoted(look.bad[0])}."]
        lines += ["# Repair them, or allow a share of bad rows with data.max_bad_fraction."]
    return "\n".join([*lines, f"name: {name}"])


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
        f"  max_seq_length: {_max_seq_length(look)} # tokens, by the longest of the first rows and the model's context"
    ]
    if _is_tight(look):
        lines += [
            "  truncation: truncate # too long for the context: the prompt loses its left end, counted; or: drop, error"
        ]
    return "\n".join(lines)


def _methods(look: Look) -> str:
    lines = ["# `tuneline methods` lists all methods and their settings."]
    lines += ["methods:", "  - {kind: none} # the untuned base, which the others are compared with"]
    if _is_large(look):
        lines += ["  # full fine-tuning needs about 16 bytes per parameter: - {kind: full}"]
    else:
        lines += [_method("full", "", look)]
    lines += [_method("lora", ", r: 16, lora_alpha: 32", look)]
    if _is_large(look):
        lines += [_method("qlora", ", r: 16, lora_alpha: 32", look) + " # the base in 4 bits while it trains"]
    lines += [_method("ia3", "", look)]
    return "\n".join(lines)


def _method(kind: str, settings: str, look: Look) -> str:
    """The rate is the method's own default at the model's size, written out so that it can be changed."""
    rate = f", learning_rate: {parse_method({'kind': kind}).default_learning_rate(look.facts):g}" if look.facts else ""
    return f"  - {{kind: {kind}{settings}{rate}}}"


def _training(look: Look) -> str:
    batch = 1 if _is_large(look) else 4 if _max_seq_length(look) > 512 else 8
    accumulation = 8 // batch
    epochs = 1 if look.rows > 20_000 else 3
    steps = max(1, look.rows * epochs // 8)
    lines = ["training:", f"  num_train_epochs: {epochs} # about {steps:,} steps; or max_steps: 300"]
    lines += [f"  per_device_train_batch_size: {batch}"]
    lines += [f"  gradient_accumulation_steps: {accumulation} # 8 rows per optimiser step on one device"]
    lines += [
        f"  save_steps: {max(10, min(500, steps // 5))} # checkpoints; a run that was cut off goes on from the last"
    ]
    if _is_large(look):
        lines += ["  gradient_checkpointing: true # less memory, about a third more time"]
    return "\n".join(lines)


def _evaluation(look: Look) -> str:
    lines = ["evaluation:", f"  metrics: [{_METRICS[look.kind]}] # {_REASONS[look.kind]}; the first names the winner"]
    if look.labels:
        lines += [f"  # {look.labels} labels among the first rows; all labels of the training rows are offered"]
    return "\n".join([*lines, f"  max_new_tokens: {_max_new_tokens(look)}"])


def _registry(name: str) -> str:
    return f"registry:\n  model: {name} # the winner becomes a new version of it; remove the line to register nothing\n"
