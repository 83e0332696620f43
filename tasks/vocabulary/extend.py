"""Extend a base: new tokens, rows for them, a proof, and a model folder that stands for itself."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tasks.foundation.determinism import repeatable
from tasks.foundation.digests import canonical_json
from tasks.foundation.errors import DataError
from tasks.foundation.faults import reach
from tasks.models import ModelSettings, companion_files, resolve_base
from tasks.models.loading import load_base, load_tokenizer, pick_device
from tasks.models.resolve import TOKENIZER_FILES
from tasks.models.values import BaseModel
from tasks.vocabulary.borrowing import borrow
from tasks.vocabulary.document import SETTING, extended, first_free, write_tokenizer
from tasks.vocabulary.learning import learn
from tasks.vocabulary.original import Original, batched
from tasks.vocabulary.proof import prove_rows, prove_tokenizer
from tasks.vocabulary.reading import REPORT_FILE, TOKENS_FILE
from tasks.vocabulary.rows import (
    Measured,
    NewRows,
    Report,
    learning_rate,
    measure,
    plain,
    sequences,
    train_rows,
    trained,
)
from tasks.vocabulary.taking import take
from tasks.vocabulary.texts import read_texts, read_tokens, split
from tasks.vocabulary.values import Choice, ExtensionJob, VocabularyReport
from tasks.vocabulary.weights import vocabulary_tensors, write_extended, write_rows

log = logging.getLogger(__name__)

_MEASURED_TEXTS = 200
"""Held out texts that are measured at most."""


def extend(job: ExtensionJob, folder: Path, report: Report) -> VocabularyReport:
    """Fill an empty folder with the extended base, new_tokens.jsonl and report.json.

    Raises:
        ConfigError: the base's tokenizer cannot be extended, or nothing of what was asked for is new.
        DataError: the text has nothing to learn.
        DivergenceError: the rows' loss is not finite.
        IntegrityError: the extended base is not what was meant.
    """
    texts = read_texts(job)
    original = Original(job.base)
    choice = _chosen(job, original, texts)
    first = first_free(original.document)
    _write(job.base, original, choice, folder)
    base = resolve_base(ModelSettings(name_or_path=str(folder), attn_implementation=job.base.attn_implementation))
    with repeatable(1):
        losses = _train(job, base, first, texts, report)
    prove_tokenizer(original, base, choice.tokens, texts)
    prove_rows(job.base, base, first, len(choice.tokens))
    found = VocabularyReport(
        origin=job.base.digest,
        new_tokens=len(choice.tokens),
        steps_of_merging=sum(not token.asked_for for token in choice.tokens),
        existing_tokens=choice.existing,
        unreachable_tokens=choice.unreachable,
        first_id=first,
        reused_rows=min(len(choice.tokens), job.base.facts.vocab_size - first),
        vocab_size=base.facts.vocab_size,
        **_counts(texts, original.tokenizer, load_tokenizer(base)),
        **losses,
    )
    reach("vocabulary.write")
    (folder / REPORT_FILE).write_text(canonical_json(found) + "\n", encoding="utf-8")
    log.info(
        "%s: %d new tokens, loss %.4f -> %.4f",
        job.base.name,
        found.new_tokens,
        found.loss_mean_start,
        found.loss_trained,
    )
    return found


def _chosen(job: ExtensionJob, original: Original, texts: Sequence[str]) -> Choice:
    settings = job.settings
    if settings.tokenizer is not None:
        return borrow(original, Path(settings.tokenizer))
    if settings.train is None:
        return take(original, read_tokens(settings))
    choice = learn(original, texts, settings.train)
    if not choice.tokens:
        raise DataError(
            f"the text repeats nothing {settings.train.min_count} times that the base's tokenizer splits",
            where=f"{SETTING}.text",
            fix="Give more text, or lower train.min_count",
        )
    if len(choice.tokens) < settings.train.size:
        log.warning("%d tokens were asked for, the text is worth %d", settings.train.size, len(choice.tokens))
    return choice


def _write(base: BaseModel, original: Original, choice: Choice, folder: Path) -> None:
    """The model folder with every new row at the mean of its parts."""
    first, tokens = first_free(original.document), choice.tokens
    write_extended(base, [token.parts for token in tokens], first, folder)
    document = extended(original.document, tokens)
    write_tokenizer(
        base.path, [name for name in TOKENIZER_FILES if (base.path / name).is_file()], document, tokens, folder
    )
    for name in companion_files(base.path):
        if name not in TOKENIZER_FILES and not (folder / name).exists():
            shutil.copyfile(base.path / name, folder / name)
    lines = (canonical_json({"id": first + at, **token.model_dump(mode="json")}) for at, token in enumerate(tokens))
    (folder / TOKENS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _train(job: ExtensionJob, base: BaseModel, first: int, texts: Sequence[str], report: Report) -> dict[str, Any]:
    """Train the rows in the folder's files; the losses before and after."""
    settings, tokenizer = job.settings, load_tokenizer(base)
    device = torch.device(pick_device())
    length = min(settings.max_length, base.facts.max_position_embeddings)
    learnt, held = split(texts)
    held = held[:_MEASURED_TEXTS]
    alone = _of_the_base(job, held, length, device)  # gone before the extended one is loaded
    count = len((base.path / TOKENS_FILE).read_bytes().splitlines())
    rows = NewRows(load_base(base, device=str(device)), first, count)
    test = sequences(held, tokenizer, length)
    before = measure(rows, test, settings.batch_size, device)
    rate = learning_rate(settings, rows.old) if settings.steps else 0.0
    tokens = train_rows(rows, sequences(learnt, tokenizer, length), settings, rate, report)
    after = measure(rows, test, settings.batch_size, device)
    names = vocabulary_tensors(base)
    write_rows(base.path, {getattr(names, name): row for name, row in trained(rows).items()}, first)
    characters = sum(map(len, held))
    return {
        "texts": len(learnt),
        "learning_rate": rate,
        "trained_tokens": tokens,
        "held_out_texts": len(held),
        "loss_mean_start": before.loss_sum / before.tokens,
        "loss_trained": after.loss_sum / after.tokens,
        "nats_per_character_base": alone.loss_sum / characters,
        "nats_per_character_mean_start": before.loss_sum / characters,
        "nats_per_character_trained": after.loss_sum / characters,
    }


def _of_the_base(job: ExtensionJob, texts: Sequence[str], length: int, device: torch.device) -> Measured:
    """What the base makes of the same texts with its own tokenizer."""
    base = job.base.model_copy(update={"dtype": "auto"})
    pieces = sequences(texts, load_tokenizer(base), length)
    return measure(plain(load_base(base, device=str(device))), pieces, job.settings.batch_size, device)


def _counts(texts: Sequence[str], before: Any, after: Any) -> dict[str, Any]:
    characters = sum(map(len, texts))
    return {
        "characters": characters,
        "tokens_per_character_before": _tokens(texts, before) / characters,
        "tokens_per_character_after": _tokens(texts, after) / characters,
    }


def _tokens(texts: Sequence[str], tokenizer: Any) -> int:
    """Tokens of all texts, without those that frame each."""
    return sum(
        len(ids)
        for batch in batched(texts)
        for ids in tokenizer(list(batch), add_special_tokens=False, verbose=False)["input_ids"]
    )
