"""The token step: canonical rows in, sequences with labels out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from tasks.artifacts import Artifact
from tasks.data import sequences
from tasks.data.fitting import fit
from tasks.data.packing import check_packing, pack
from tasks.data.renderings import Renderings
from tasks.data.rows import read_eval_rows, read_rows
from tasks.data.sample import render_sample
from tasks.data.settings import DataSettings
from tasks.data.templates import MASKED, Renderer
from tasks.data.values import PreparedData, Row, TokenizedData, TokenReport
from tasks.foundation.digests import canonical_json, code_digest, digest_value, library_versions
from tasks.foundation.errors import ConfigError, DataError, ModelError
from tasks.foundation.faults import reach
from tasks.models.values import BaseModel, BaseModelFacts

log = logging.getLogger(__name__)

_SETTINGS = {
    "max_seq_length",
    "truncation",
    "template",
    "templates",
    "template_choice",
    "use_chat_template",
    "train_on_prompt",
    "packing",
}
"""Fields that decide the tokens; everything else decides the rows, which have a digest of their own."""
_CODE = (
    "tasks.data.dialects",
    "tasks.data.fitting",
    "tasks.data.packing",
    "tasks.data.plain_template",
    "tasks.data.renderings",
    "tasks.data.sample",
    "tasks.data.segments",
    "tasks.data.sequences",
    "tasks.data.templates",
    "tasks.data.tokenize",
)
_ROWS_PER_BATCH = 1000
_SAMPLE_ROWS = 3


class _Side(NamedTuple):
    """The sequences of one side before packing, and what became of the rows, of each rendering of one apart."""

    sequences: list[sequences.Sequence]
    fates: Counter[str]
    templates: Counter[str]

    @property
    def dropped(self) -> int:
        return self.fates["dropped"] + self.fates["answer_too_long"]


def tokenize_key(prepared: PreparedData, base: BaseModel, settings: DataSettings) -> str:
    """sha256 of everything that decides the tokens: rows, tokenizer, template, length, code, libraries.

    The model's vocabulary and context belong to it, because sequences are checked against them.
    """
    model: dict[str, Any] = {
        "vocab_size": base.facts.vocab_size,
        "max_position_embeddings": base.facts.max_position_embeddings,
    }
    if settings.packing:
        model |= {"attention": base.attn_implementation, "model_type": base.facts.model_type}
    return digest_value(
        {
            "rows": prepared.report.digest,
            "tokenizer": base.tokenizer_digest,
            "model": model,
            "settings": settings.model_dump(mode="json", include=_SETTINGS),
            "draw": settings.seed if settings.template_choice == "draw" else None,
            "code": code_digest(*_CODE),
            "libraries": library_versions("jinja2", "pyarrow", "tokenizers", "transformers"),
        }
    )


def tokenize(prepared: PreparedData, base: BaseModel, settings: DataSettings, folder: Path) -> TokenReport:
    """Fill an empty folder with train.arrow, eval.arrow, sample.md and report.json.

    Raises:
        ConfigError: packing where rows might see each other, or templates that no row would be rendered with.
        DataError: a row is too long under `truncation: error`, or nothing is left to learn.
        ModelError: tokenizer and model do not belong together, or the template cannot be trained on.
    """
    from tasks.models.loading import load_tokenizer

    if settings.packing:
        check_packing(base.attn_implementation, base.facts.model_type)
    tokenizer = load_tokenizer(base)
    renderer = Renderer(tokenizer, settings)
    source = prepared.artifact.path
    train = _side(read_rows(source / "train.jsonl"), Renderings(tokenizer, settings), settings)
    first = settings.model_copy(update={"templates": (), "template_choice": "all"})
    evaluation = _side(read_eval_rows(source / "eval.jsonl"), Renderings(tokenizer, first), settings)
    _check(train, evaluation, base.facts, settings)
    learned = _packed(train.sequences, settings.max_seq_length) if settings.packing else train.sequences
    report = _report(train, evaluation, learned, renderer.template)
    if len(settings.templates) > 1:
        report = report.model_copy(update=_counted(settings, train))
    sequences.write_sequences(folder / "train.arrow", learned, positions=settings.packing)
    sequences.write_sequences(folder / "eval.arrow", evaluation.sequences, positions=False)
    sample = render_sample(train.sequences[:_SAMPLE_ROWS], tokenizer)
    (folder / "sample.md").write_text(sample, encoding="utf-8")
    (folder / "report.json").write_text(canonical_json(report) + "\n", encoding="utf-8")
    log.info("%d training sequences, %d rows left out", report.train_sequences, report.dropped_rows)
    return report


def _side(rows: Sequence[Row], renderings: Renderings, settings: DataSettings) -> _Side:
    side = _Side([], Counter(), Counter())
    for batch in _batches(rows):
        reach("tokenize.batch")
        for rendering in renderings.of(batch):
            fitting, fate = fit(rendering.encoded, settings, rendering.row.source)
            side.fates[fate] += 1
            if fitting is not None:
                side.sequences.append(sequences.Sequence(rendering.id, fitting.input_ids, fitting.labels))
                side.templates[rendering.template] += bool(rendering.row.turns)
    return side


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), _ROWS_PER_BATCH):
        yield rows[start : start + _ROWS_PER_BATCH]


def _check(train: _Side, evaluation: _Side, facts: BaseModelFacts, settings: DataSettings) -> None:
    """Refuse what would break or teach nothing, before a model is loaded."""
    for name, side in (("training", train), ("evaluation", evaluation)):
        if not side.sequences:
            raise DataError(
                f"no {name} row is left: {side.dropped} are over {settings.max_seq_length} tokens",
                where="data.max_seq_length",
                fix="Raise it, or set data.truncation: truncate",
            )
    if not any(label != MASKED for sequence in train.sequences for label in sequence.labels):
        raise DataError("every label is masked, so nothing would be learned", where="data.template", fix="Change it")
    every = [*train.sequences, *evaluation.sequences]
    largest = max(max(sequence.input_ids) for sequence in every)
    if largest >= facts.vocab_size:
        raise ModelError(
            f"the tokenizer gives the id {largest}, the model knows {facts.vocab_size} tokens",
            where="model.name_or_path",
            fix="Use the tokenizer that belongs to the model",
        )
    longest, context = max(len(sequence.input_ids) for sequence in every), facts.max_position_embeddings
    if 0 < context < longest:
        raise ModelError(
            f"the longest row has {longest} tokens, the model's context is {context}",
            where="data.max_seq_length",
            fix=f"Set data.max_seq_length: {context}",
        )


def _counted(settings: DataSettings, train: _Side) -> dict[str, Any]:
    """Rows by template, for the report.

    Raises:
        ConfigError: the training rows are raw text, which no template changes.
    """
    if not train.templates.total():
        raise ConfigError(
            "the training rows are raw text, which no template changes",
            where="data.templates",
            fix="Remove it, or train on prompts with completions",
        )
    counts = {template: train.templates[template] for template in settings.templates}
    return {"templates": len(counts), "rows_by_template": counts}


def _packed(rows: list[sequences.Sequence], capacity: int) -> list[sequences.Sequence]:
    groups = pack([len(row.input_ids) for row in rows], capacity)
    return [sequences.packed([rows[index] for index in group]) for group in groups]


def _report(train: _Side, evaluation: _Side, learned: list[sequences.Sequence], template: str) -> TokenReport:
    lengths = numpy.array([len(sequence.input_ids) for sequence in train.sequences])
    return TokenReport(
        train_sequences=len(learned),
        train_tokens=int(lengths.sum()),
        answer_tokens=sum(len(sequence.labels) - sequence.labels.count(MASKED) for sequence in train.sequences),
        eval_sequences=len(evaluation.sequences),
        eval_tokens=sum(len(sequence.input_ids) for sequence in evaluation.sequences),
        dropped_rows=train.dropped + evaluation.dropped,
        truncated_rows=train.fates["truncated"] + evaluation.fates["truncated"],
        answer_too_long_rows=train.fates["answer_too_long"] + evaluation.fates["answer_too_long"],
        eval_dropped_rows=evaluation.dropped,
        length_median=float(numpy.median(lengths)),
        length_p95=float(numpy.percentile(lengths, 95)),
        length_max=int(lengths.max()),
        packed_rows=len(train.sequences) if len(learned) < len(train.sequences) else 0,
        template=template,
    )


def read_tokenized(artifact: Artifact) -> TokenizedData:
    """What an artifact of this step holds."""
    report = TokenReport.model_validate_json((artifact.path / "report.json").read_bytes())
    return TokenizedData(artifact=artifact, report=report)
