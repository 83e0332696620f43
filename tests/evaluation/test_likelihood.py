from __future__ import annotations

import pytest
import torch

from tasks.evaluation.likelihood import row_losses
from tasks.evaluation.loaded import Loaded
from tasks.evaluation.suite import TokenRow
from tasks.foundation.errors import DataError, DivergenceError
from tasks.models import BaseModel
from tests.evaluation.worlds import ADAPTERS, CONTEXT, STORIES, VIRTUAL_TOKENS, base_in, load_kind, needs_stories

ROWS = [
    TokenRow("short", [5, 9, 17], [-100, 9, 17]),
    TokenRow("long", [5, 9, 17, 40, 80, 12, 33], [-100, -100, -100, 40, 80, -100, 33]),
    TokenRow("middle", [70, 71, 72, 73, 74], [-100, -100, 72, 73, 74]),
]


def losses_of(loaded: Loaded, rows: list[TokenRow], batch_size: int) -> list[tuple[float, int]]:
    with torch.inference_mode():
        return [tuple(loss) for loss in row_losses(loaded, rows, batch_size, lambda _: None)]


def by_hand(loaded: Loaded, row: TokenRow) -> float:
    """One token at a time: everything before it in, its probability out of the last position."""
    total = 0.0
    for position, label in enumerate(row.labels):
        if label != -100 and position:
            before = torch.tensor([row.input_ids[:position]])
            with torch.inference_mode():
                logits = loaded.model(input_ids=before, attention_mask=torch.ones_like(before)).logits[0, -1]
            total -= float(torch.log_softmax(logits.double(), dim=-1)[label])
    return total


@pytest.mark.parametrize("kind", ["none", *ADAPTERS])
def test_loss_equals_a_loop_written_by_hand(tiny: BaseModel, kind: str) -> None:
    loaded = load_kind(tiny, kind)
    found = losses_of(loaded, ROWS, batch_size=2)
    assert [tokens for _, tokens in found] == [2, 3, 3]
    assert [loss for loss, _ in found] == pytest.approx([by_hand(loaded, row) for row in ROWS], rel=1e-5)


@needs_stories
@pytest.mark.parametrize("kind", ["none", "prompt_tuning", "prefix_tuning"])
def test_loss_equals_a_loop_written_by_hand_on_the_real_model(kind: str) -> None:
    loaded = load_kind(base_in(STORIES), kind)
    texts = ["Once upon a time there was a little girl.", "Lily had a red ball. She liked it."]
    tokens = [loaded.tokenizer(text)["input_ids"] for text in texts]
    rows = [TokenRow(str(n), ids, [-100, *ids[1:]]) for n, ids in enumerate(tokens)]
    found = [loss for loss, _ in losses_of(loaded, rows, batch_size=4)]
    assert found == pytest.approx([by_hand(loaded, row) for row in rows], rel=1e-5)


@needs_stories
def test_the_real_model_knows_its_own_stories() -> None:
    loaded = load_kind(base_in(STORIES), "none")
    ids = loaded.tokenizer("Once upon a time, there was a little girl named Lily.")["input_ids"]
    ((loss, tokens),) = losses_of(loaded, [TokenRow("s", ids, [-100, *ids[1:]])], batch_size=1)
    assert loss / tokens < 1.0


def test_the_first_position_never_counts(tiny: BaseModel) -> None:
    counted = TokenRow("r", [5, 9, 17], [5, 9, 17])
    assert losses_of(load_kind(tiny, "prompt_tuning"), [counted], 1)[0][1] == 2


def test_progress_counts_rows(tiny: BaseModel) -> None:
    steps: list[int] = []
    with torch.inference_mode():
        row_losses(load_kind(tiny, "none"), ROWS, 2, steps.append)
    assert steps == [2, 1]


def test_a_nan_is_an_error_that_names_the_row(tiny: BaseModel) -> None:
    loaded = load_kind(tiny, "none")
    loaded.model.lm_head.weight.data[0] = float("nan")
    with pytest.raises(DivergenceError, match="the loss of row long is nan"):
        losses_of(loaded, ROWS, 1)


def test_virtual_tokens_count_against_the_context(tiny: BaseModel) -> None:
    fits = [1] * (CONTEXT - VIRTUAL_TOKENS)
    loaded = load_kind(tiny, "prompt_tuning")
    assert losses_of(loaded, [TokenRow("r", fits, fits)], 1)[0][1] == len(fits) - 1
    with pytest.raises(DataError, match=rf"row r needs {len(fits) + 1} tokens with {VIRTUAL_TOKENS} virtual tokens"):
        losses_of(loaded, [TokenRow("r", [*fits, 1], [*fits, 1])], 1)
