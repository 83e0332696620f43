"""Sequences to a batch of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tasks.data.templates import MASKED

Example = Mapping[str, Sequence[int]]

FILLER_TOKENS = 1
"""Length of the only batch that holds nothing to learn; a row to learn from has at least two tokens."""


class Collator:
    """Pads on the right, or lays packed sequences end to end.

    Args:
        pad_token_id: any valid id; padding is neither attended to nor learned.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Tensors of shape (examples, longest), or (1, sum of lengths) for packed ones.

        Packed ones have `position_ids` and no `attention_mask`: that is how the model knows the rows' borders. No
        examples make a filler: a rank without rows must run its model as often as the others run theirs.
        """
        if not examples:
            return _filler(self._pad)
        if "position_ids" in examples[0]:
            names = ("input_ids", "labels", "position_ids")
            return {name: torch.tensor([[i for example in examples for i in example[name]]]) for name in names}
        ones = [[1] * len(example["input_ids"]) for example in examples]
        return {
            "input_ids": _padded([example["input_ids"] for example in examples], self._pad),
            "labels": _padded([example["labels"] for example in examples], MASKED),
            "attention_mask": _padded(ones, 0),
        }


def is_filler(batch: Mapping[str, torch.Tensor]) -> bool:
    """True for the batch that stands where a rank has no row left: no token of it counts."""
    return int(batch["input_ids"].shape[-1]) == FILLER_TOKENS


def _filler(token: int) -> dict[str, torch.Tensor]:
    """One token that is seen and not learned; attention to nothing at all would be NaN in some kernels."""
    ids = torch.full((1, FILLER_TOKENS), token)
    return {"input_ids": ids, "labels": torch.full_like(ids, MASKED), "attention_mask": torch.ones_like(ids)}


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *([value] * (longest - len(row)))] for row in rows])
