"""Rows of token ids for the two stages of pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from tasks.embedded.corpus import Document
from tasks.embedded.tokenizer import EOS_ID

MASKED = -100
"""The label that is not learnt."""
_SPECIAL_TOKENS = 3
_SHORTEST_PERIOD, _LONGEST_PERIOD = 4, 48


class Rows(NamedTuple):
    """Token ids and labels, each (rows, length)."""

    tokens: torch.Tensor
    labels: torch.Tensor


def pack(tokenizer: Tokenizer, texts: Sequence[Document], length: int) -> Rows:
    """All documents, each between its start and end token, in one stream cut into rows; the end token is learnt."""
    given = tokenizer.encode_batch([text.given for text in texts])
    learnt = tokenizer.encode_batch([text.learnt for text in texts], add_special_tokens=False)
    tokens: list[int] = []
    labels: list[int] = []
    for before, after in zip(given, learnt, strict=True):
        tokens += [*before.ids, *after.ids, EOS_ID]
        labels += [*([MASKED] * len(before.ids)), *after.ids, EOS_ID]
    kept = len(tokens) // length * length
    return Rows(torch.tensor(tokens[:kept]).view(-1, length), torch.tensor(labels[:kept]).view(-1, length))


def repeat(vocab_size: int, count: int, length: int) -> Rows:
    """Rows of random tokens that repeat, each with a period of its own, so that no fixed distance helps.

    Labels begin with the second token of the second period: what comes before cannot be known.
    """
    tokens = torch.empty(count, length, dtype=torch.long)
    labels = torch.full_like(tokens, MASKED)
    for row in range(count):
        period = int(torch.randint(_SHORTEST_PERIOD, min(_LONGEST_PERIOD, length // 2) + 1, ()))
        once = torch.randint(_SPECIAL_TOKENS, vocab_size, (period,))
        tokens[row] = once.repeat(length // period + 1)[:length]
        labels[row, period + 1 :] = tokens[row, period + 1 :]
    return Rows(tokens, labels)
