"""The start weights."""

import math

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from tasks.embedded import PretrainBudget
from tasks.embedded.packing import repeat
from tasks.embedded.wiring import new_model


def model_and_rows() -> tuple[LlamaForCausalLM, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = new_model(1280, PretrainBudget()).eval()
    return model, *repeat(1280, count=8, length=64)


def test_heads_of_the_first_layer_look_one_or_two_tokens_back() -> None:
    model, tokens, _ = model_and_rows()
    with torch.no_grad():
        attention = model(tokens, output_attentions=True).attentions[0]
    for head, offset in enumerate((1, 1, 2, 2)):
        assert attention[:, head].diagonal(-offset, 1, 2).mean() > 0.7


def test_copying_works_a_little_before_any_training() -> None:
    model, tokens, labels = model_and_rows()
    with torch.no_grad():
        logits = model(tokens).logits[:, :-1]
    assert functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()) < math.log(1280) - 1
