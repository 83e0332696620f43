"""Train the new rows, and nothing else: the base's own numbers are no parameters here, so none of them can move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from tasks.foundation.errors import DivergenceError
from tasks.foundation.faults import reach
from tasks.models.settings import VocabularyExtension

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Report = Callable[[int, int, float | None], None]
"""Called after each step with step, total steps and loss."""
Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Ids and mask [sequences, tokens] -> [sequences, tokens, vocabulary]."""

_WARMUP = 0.05
_RELATIVE_RATE = 0.05
_CLIP = 1.0


class NewRows(nn.Module):  # type: ignore[misc]
    """The new rows of the embedding, and of the output layer where it is a tensor of its own, as parameters.

    Whoever computes with the model is given embedding = [old rows, new rows, rows beyond]: the old ones are constants.
    """

    def __init__(self, model: PreTrainedModel, first: int, count: int) -> None:
        """`first`: id of the first new token; `count`: how many there are."""
        super().__init__()
        self._model = [model.requires_grad_(False).eval()]  # in a list: its parameters are not ours
        self._span = slice(first, first + count)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        self.tied = embedding is head
        self.embedding = self._rows(embedding)
        self.head = None if self.tied else self._rows(head)
        self._names = {
            "embedding": _name_of(model, embedding),
            "head": "" if self.tied else _name_of(model, head),
        }

    @property
    def old(self) -> torch.Tensor:
        """The base's own rows of the embedding, [tokens, hidden]."""
        weight: torch.Tensor = self._model[0].get_input_embeddings().weight
        return weight[: self._span.start]

    def _rows(self, weight: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(weight[self._span].detach().float().clone())

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [sequences, tokens, vocabulary]."""
        model = self._model[0]
        weights = {self._names["embedding"]: self._weight(model.get_input_embeddings().weight, self.embedding)}
        if self.head is not None:
            weights[self._names["head"]] = self._weight(model.get_output_embeddings().weight, self.head)
        inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        logits: torch.Tensor = functional_call(model, weights, (), inputs, tie_weights=True).logits
        return logits

    def _weight(self, weight: torch.Tensor, rows: nn.Parameter) -> torch.Tensor:
        return torch.cat([weight[: self._span.start], rows.to(weight.dtype), weight[self._span.stop :]])


def _name_of(model: nn.Module, weight: torch.Tensor) -> str:
    name: str = next(name for name, parameter in model.named_parameters() if parameter is weight)
    return name


class Measured(NamedTuple):
    """Cross-entropy in nats, summed over tokens that are predicted."""

    loss_sum: float
    tokens: int


def sequences(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[list[int]]:
    """The texts one after another, each with the start token that the tokenizer gives and an end token, cut in pieces.

    A piece of one token predicts nothing and is left out.
    """
    encoded = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    end = tokenizer.eos_token_id
    stream = [token for ids in encoded for token in (ids if ids[-1:] == [end] else [*ids, end])]
    pieces = [stream[start : start + length] for start in range(0, len(stream), length)]
    return [piece for piece in pieces if len(piece) > 1]


def learning_rate(settings: VocabularyExtension, embedding: torch.Tensor) -> float:
    """The setting, or a twentieth of the embedding's root mean square: Adam's steps are about as large as the rate."""
    if settings.learning_rate is not None:
        return settings.learning_rate
    return _RELATIVE_RATE * float(embedding.detach().float().pow(2).mean().sqrt())


def train_rows(
    rows: NewRows, pieces: Sequence[list[int]], settings: VocabularyExtension, rate: float, report: Report
) -> int:
    """AdamW without weight decay on the rows; the number of tokens that were read.

    Raises:
        DivergenceError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(rows.parameters(), lr=rate, weight_decay=0.0)
    device, tokens = rows.embedding.device, 0
    order = _order(len(pieces), settings.seed)
    for step in range(settings.steps):
        reach("vocabulary.step")
        ids, mask = _padded([pieces[next(order)] for _ in range(settings.batch_size)], device)
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step, settings.steps)
        loss = _losses(rows(ids, mask), ids, mask).mean()
        if not torch.isfinite(loss):
            fix = "Lower model.extend_vocabulary.learning_rate"
            raise DivergenceError(f"the loss of the new rows is {float(loss)} at step {step + 1}", fix=fix)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(rows.parameters(), _CLIP)
        optimizer.step()
        tokens += int(mask.sum())
        report(step + 1, settings.steps, float(loss.detach()))
    return tokens


def measure(logits: Logits, pieces: Sequence[list[int]], size: int, device: torch.device) -> Measured:
    """The loss of all pieces, `size` of them at a time."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(pieces), size):
            ids, mask = _padded(pieces[start : start + size], device)
            losses = _losses(logits(ids, mask), ids, mask)
            total, tokens = total + float(losses.double().sum()), tokens + len(losses)
    return Measured(total, tokens)


def _losses(logits: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token but the first of each sequence."""
    counted = mask[:, 1:].bool()
    return functional.cross_entropy(logits[:, :-1][counted].float(), ids[:, 1:][counted], reduction="none")


def _padded(pieces: Sequence[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [sequences, longest]; padding is never predicted, so that its id does not matter."""
    longest = max(map(len, pieces))
    ids = torch.tensor([piece + [0] * (longest - len(piece)) for piece in pieces], device=device)
    mask = torch.tensor([[1] * len(piece) + [0] * (longest - len(piece)) for piece in pieces], device=device)
    return ids, mask


def _order(count: int, seed: int) -> Iterator[int]:
    """Pass after pass over all pieces, each in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _schedule(step: int, steps: int) -> float:
    """Up over the first twentieth, then down to nothing in a straight line."""
    warmup = max(1, round(_WARMUP * steps))
    return min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))


def plain(model: PreTrainedModel) -> Logits:
    """The model as a function of ids and mask."""

    def logits(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return found

    return logits


def trained(rows: NewRows) -> Mapping[str, torch.Tensor]:
    """`embedding` and, where it is a tensor of its own, `head`: [new tokens, hidden] on CPU."""
    return {name: row.detach().cpu() for name, row in rows.named_parameters()}
