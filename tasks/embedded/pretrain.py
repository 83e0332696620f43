"""Pretrains the embedded base: a tiny Llama that copies, tells notes and knows the words of two languages.

Stage 1 repeats random tokens, which refines the copying that the start weights hold: without it no task can be learnt
at this size. Stage 2 reads generated documents. The same bytes come out every time on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GenerationConfig, LlamaForCausalLM

from tasks.embedded.budget import PretrainBudget
from tasks.embedded.corpus import documents
from tasks.embedded.packing import MASKED, Rows, pack, repeat
from tasks.embedded.tokenizer import BOS_ID, EOS_ID, PAD_ID, save_tokenizer, train_tokenizer
from tasks.embedded.wiring import new_model
from tasks.foundation.determinism import repeatable
from tasks.foundation.faults import reach

Report = Callable[[int, int, float], None]
"""Called after each step with step, total steps and loss."""

_COPY_WARMUP = 10
_WARMUP = 0.06
_WEIGHT_DECAY = 0.05
_CLIP = 1.0


def build_base(folder: Path, report: Report, budget: PretrainBudget | None = None) -> None:
    """Make tokenizer and weights and write them as a Hugging Face folder.

    Args:
        folder: an existing folder.
        report: told of every step.
        budget: sizes and steps; the defaults are the project's base.
    """
    budget = budget or PretrainBudget()
    texts = list(documents(budget.documents))
    tokenizer = train_tokenizer((text.given + text.learnt for text in texts), budget.vocab_size)
    save_tokenizer(tokenizer, folder, budget.context)
    with repeatable(budget.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(budget.seed)
        model = new_model(tokenizer.get_vocab_size(), budget)
        _learn_to_copy(model, budget, report)
        _learn_text(model, pack(tokenizer, texts, budget.text_length), budget, report)
        model.generation_config = GenerationConfig(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
        model.save_pretrained(folder)


def _learn_to_copy(model: LlamaForCausalLM, budget: PretrainBudget, report: Report) -> None:
    """Stage 1: random tokens that repeat."""
    optimizer = _optimizer(model)
    for step in range(budget.copy_steps):
        rows = repeat(model.config.vocab_size, budget.copy_batch, budget.copy_length)
        _set_rate(optimizer, budget.learning_rate * min(1.0, (step + 1) / _COPY_WARMUP))
        report(step + 1, budget.steps, _step(model, optimizer, rows))


def _learn_text(model: LlamaForCausalLM, text: Rows, budget: PretrainBudget, report: Report) -> None:
    """Stage 2: packed documents in order; each step also holds some copying, which would be forgotten otherwise."""
    optimizer = _optimizer(model)
    for step in range(budget.text_steps):
        picked = torch.arange(step * budget.text_batch, (step + 1) * budget.text_batch) % len(text.tokens)
        copies = repeat(model.config.vocab_size, budget.kept_copies, budget.text_length)
        rows = Rows(*(torch.cat([some[picked], copy]) for some, copy in zip(text, copies, strict=True)))
        _set_rate(optimizer, budget.learning_rate * _schedule(step, budget.text_steps))
        report(budget.copy_steps + step + 1, budget.steps, _step(model, optimizer, rows))


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
    reach("embed.step")
    hidden = model.model(input_ids=rows.tokens, use_cache=False).last_hidden_state[:, :-1]
    targets = rows.labels[:, 1:]
    learnt = targets != MASKED
    loss = functional.cross_entropy(model.lm_head(hidden[learnt]), targets[learnt])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    return float(loss.detach())
