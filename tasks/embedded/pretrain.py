"""Pretrains the embedded base: a tiny Llama that copies, tells notes and knows the words of two languages.

Stage 1 repeats random tokens until copying works: without it induction never appears at this size and no task can be
learnt. Stage 2 is plain language modelling on generated documents. The same bytes come out every time on one machine.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM

from tasks.embedded.budget import PretrainBudget
from tasks.embedded.corpus import Document, documents
from tasks.embedded.tokenizer import BOS_ID, EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from tasks.embedded.wiring import new_model

log = logging.getLogger(__name__)

Report = Callable[[int, int, float], None]
"""Called after each step with step, total steps and loss."""

_SPECIAL_TOKENS = 3
_COPY_WARMUP = 10
_SHORTEST_PERIOD, _LONGEST_PERIOD = 4, 48
_WARMUP = 0.06
_WEIGHT_DECAY = 0.05
_CLIP = 1.0
_MASKED = -100


def build_base(folder: Path, report: Report, budget: PretrainBudget | None = None) -> None:
    """Make tokenizer and weights and write them as a Hugging Face folder.

    Args:
        folder: an existing folder.
        report: told of every step; stage 1 may end early, then the count jumps.
        budget: sizes and steps; the defaults are the project's base.
    """
    budget = budget or PretrainBudget()
    texts = list(documents(budget.documents))
    tokenizer = train_tokenizer((text.given + text.learnt for text in texts), budget.vocab_size)
    save_tokenizer(tokenizer, folder, budget.context)
    with _repeatable(budget):
        model = new_model(tokenizer.get_vocab_size(), budget)
        _learn_to_copy(model, budget, report)
        _learn_text(model, _packed(tokenizer, texts, budget.text_length), budget, report)
        model.generation_config = GenerationConfig(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
        model.save_pretrained(folder)


@contextmanager
def _repeatable(budget: PretrainBudget) -> Iterator[None]:
    """Fix threads, algorithms and seed, and put them back."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(budget.threads)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(budget.seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            torch.set_num_threads(threads)


def _learn_to_copy(model: LlamaForCausalLM, budget: PretrainBudget, report: Report) -> None:
    """Stage 1: random tokens that repeat."""
    optimizer = _optimizer(model)
    for step in range(budget.copy_steps):
        rows = _repeated(model.config.vocab_size, budget.copy_batch, budget.copy_length)
        _set_rate(optimizer, budget.learning_rate * min(1.0, (step + 1) / _COPY_WARMUP))
        report(step + 1, budget.steps, _step(model, optimizer, rows))


def _learn_text(model: LlamaForCausalLM, documents: Rows, budget: PretrainBudget, report: Report) -> None:
    """Stage 2: packed documents in order; each step also holds some copying, which would be forgotten otherwise."""
    optimizer = _optimizer(model)
    for step in range(budget.text_steps):
        picked = torch.arange(step * budget.text_batch, (step + 1) * budget.text_batch) % len(documents.tokens)
        copies = _repeated(model.config.vocab_size, budget.kept_copies, budget.text_length)
        rows = Rows(*(torch.cat([text[picked], copy]) for text, copy in zip(documents, copies, strict=True)))
        _set_rate(optimizer, budget.learning_rate * _schedule(step, budget.text_steps))
        report(budget.copy_steps + step + 1, budget.steps, _step(model, optimizer, rows))


class Rows(NamedTuple):
    """Token ids and labels, each (rows, length); a label is -100 where nothing is learnt."""

    tokens: torch.Tensor
    labels: torch.Tensor


def _repeated(vocab_size: int, count: int, length: int) -> Rows:
    """Rows of random tokens, each with a period of its own, so that no fixed distance helps; the first one is masked."""
    tokens = torch.empty(count, length, dtype=torch.long)
    labels = torch.full_like(tokens, _MASKED)
    for row in range(count):
        period = int(torch.randint(_SHORTEST_PERIOD, min(_LONGEST_PERIOD, length // 2) + 1, ()))
        once = torch.randint(_SPECIAL_TOKENS, vocab_size, (period,))
        tokens[row] = once.repeat(length // period + 1)[:length]
        labels[row, period + 1 :] = tokens[row, period + 1 :]
    return Rows(tokens, labels)


def _packed(tokenizer: Tokenizer, texts: list[Document], length: int) -> Rows:
    """All documents, each between its start and end token, in one stream cut into rows."""
    given = tokenizer.encode_batch([text.given for text in texts])
    learnt = tokenizer.encode_batch([text.learnt for text in texts], add_special_tokens=False)
    tokens: list[int] = []
    labels: list[int] = []
    for before, after in zip(given, learnt, strict=True):
        tokens += [*before.ids, *after.ids, EOS_ID]
        labels += [*([_MASKED] * len(before.ids)), *after.ids, EOS_ID]
    kept = len(tokens) // length * length
    return Rows(torch.tensor(tokens[:kept]).view(-1, length), torch.tensor(labels[:kept]).view(-1, length))


def _optimizer(model: LlamaForCausalLM) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=_WEIGHT_DECAY, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def _step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, rows: Rows) -> float:
    """One step; logits are computed only where there is a label, which is half of the text."""
    hidden = model.model(input_ids=rows.tokens, use_cache=False).last_hidden_state[:, :-1]
    targets = rows.labels[:, 1:]
    learnt = targets != _MASKED
    loss = functional.cross_entropy(model.lm_head(hidden[learnt]), targets[learnt])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    return float(loss.detach())
