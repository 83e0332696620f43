from __future__ import annotations

import pytest
import torch

from tasks.data.values import EvalRow, Turn
from tasks.evaluation.choices import label_rows, most_likely_labels
from tasks.evaluation.likelihood import RowLoss, row_losses
from tasks.evaluation.suite import group_questions
from tasks.models import BaseModel
from tests.evaluation.worlds import load_kind

LABELS = ("good", "bad", "so so")


def test_the_lowest_sum_wins_and_of_equal_ones_the_first() -> None:
    losses = [RowLoss(total, 1) for total in (3.0, 2.0, 2.0, 1.0, 1.0, 5.0)]
    assert most_likely_labels(losses, LABELS) == ["bad", "good"]


def test_longer_labels_are_not_divided_by_their_length() -> None:
    assert most_likely_labels([RowLoss(2.0, 1), RowLoss(3.0, 9), RowLoss(9.0, 9)], LABELS) == ["good"]


@pytest.mark.parametrize("kind", ["none", "prompt_tuning", "prefix_tuning"])
def test_a_label_counts_with_its_end_token_given_the_prompt(tiny: BaseModel, kind: str) -> None:
    loaded = load_kind(tiny, kind)
    turns = (Turn(role="user", content="nice soup"), Turn(role="assistant", content="good"))
    questions = group_questions([EvalRow(id="1", turns=turns)])
    prompt = loaded.renderer.prompt_ids(questions[0].turns)
    with torch.inference_mode():
        found = [loss.loss_sum for loss in row_losses(loaded, label_rows(loaded, questions, LABELS), 2, lambda _: None)]
        for label, loss in zip(LABELS, found, strict=True):
            answer = [*loaded.tokenizer(label, add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id]
            ids = torch.tensor([[*prompt, *answer]])
            logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            probabilities = torch.log_softmax(logits[-len(answer) - 1 : -1], dim=-1)
            by_hand = -sum(float(probabilities[place, token]) for place, token in enumerate(answer))
            assert loss == pytest.approx(by_hand, rel=1e-5), label
