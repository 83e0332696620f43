"""True cross-entropy of given tokens, from the logits: a model's own `.loss` may hold penalties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from tasks.evaluation.loaded import Loaded, batches, check_room, padded
from tasks.evaluation.suite import TokenRow
from tasks.foundation.errors import DivergenceError

IGNORED = -100


class RowLoss(NamedTuple):
    """Cross-entropy in nats, summed over `tokens` tokens."""

    loss_sum: float
    tokens: int


def row_losses(
    loaded: Loaded, rows: Sequence[TokenRow], batch_size: int, advance: Callable[[int], None]
) -> list[RowLoss]:
    """Cross-entropy of every row over its labels that are not -100, in the order of `rows`.

    A label in the first position never counts: an untuned model predicts it from nothing.

    Raises:
        DataError: a row is longer than the model's context.
        DivergenceError: a loss is NaN or infinite.
    """
    losses: dict[int, RowLoss] = {}
    lengths = [len(row.input_ids) for row in rows]
    for batch in batches(lengths, batch_size):
        check_room(loaded, lengths[batch[0]], f"row {rows[batch[0]].id}")
        losses.update(zip(batch, _batch_losses(loaded, [rows[index] for index in batch]), strict=True))
        advance(len(batch))
    return [losses[index] for index in range(len(rows))]


def _batch_losses(loaded: Loaded, rows: Sequence[TokenRow]) -> list[RowLoss]:
    """Right padding, as in training; sums in float64."""
    pad = loaded.tokenizer.pad_token_id
    ids, mask = padded([row.input_ids for row in rows], fill=pad, left=False, device=loaded.device)
    labels, _ = padded([row.labels for row in rows], fill=IGNORED, left=False, device=loaded.device)
    logits = loaded.model(input_ids=ids, attention_mask=mask).logits
    # A soft prompt at the input puts its own positions in front of ours: count from the right.
    logits = logits[:, -ids.shape[1] :][:, :-1]
    return [_row_loss(row, *pair) for row, *pair in zip(rows, logits, labels[:, 1:], strict=True)]


def _row_loss(row: TokenRow, logits: torch.Tensor, labels: torch.Tensor) -> RowLoss:
    """`logits` [positions, vocabulary] predict `labels` [positions]."""
    counted = labels != IGNORED
    log_probabilities = torch.log_softmax(logits[counted].float(), dim=-1)
    chosen = log_probabilities.gather(1, labels[counted].unsqueeze(1))
    loss = RowLoss(-float(chosen.double().sum()), int(counted.sum()))
    if not torch.isfinite(chosen).all():
        raise DivergenceError(f"the loss of row {row.id} is {loss.loss_sum}", fix="Lower the method's learning_rate")
    return loss
