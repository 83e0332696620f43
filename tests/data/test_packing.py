from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.collate import Collator
from tasks.data.packing import PACKING_FAMILIES, check_packing, pack
from tasks.data.sequences import Sequence, packed
from tasks.data.templates import MASKED
from tasks.foundation.errors import ConfigError

LENGTHS = (5, 9, 3, 12)


def tiny_model(model_type: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64, "max_position_embeddings": 64}
    config = AutoConfig.for_model(model_type, **sizes, **heads, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(0)
    config.use_cache = False  # as in training; with a cache the model would not see the rows' borders
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def rows() -> list[Sequence]:
    torch.manual_seed(1)
    made = [torch.randint(3, 64, (length,)).tolist() for length in LENGTHS]
    return [Sequence(f"row {i}", ids, [MASKED, *ids[1:]]) for i, ids in enumerate(made)]


def example(sequence: Sequence) -> dict[str, list[int]]:
    return {name: value for name, value in sequence._asdict().items() if name != "id" and value is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", PACKING_FAMILIES)
def test_packed_rows_have_the_logits_that_they_have_alone(model_type: str, attention: str) -> None:
    check_packing(attention, model_type)
    model = tiny_model(model_type, attention)
    # Two packed sequences in one batch, laid end to end by the collator.
    batch = Collator(0)([example(packed(rows()[:3])), example(packed(rows()[3:] + rows()[:1]))])
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[0]
        alone = [model(input_ids=torch.tensor([row.input_ids])).logits[0] for row in (*rows(), rows()[0])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_the_loss_of_packed_rows_is_the_loss_of_padded_ones() -> None:
    model = tiny_model("llama", "sdpa")
    losses = [
        model(**Collator(0)(examples)).loss
        for examples in ([example(packed(rows()))], [example(row) for row in rows()])
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_no_row_is_predicted_from_the_row_before_it() -> None:
    whole = packed(rows())
    assert whole.position_ids is not None
    starts = [place for place, position in enumerate(whole.position_ids) if position == 0]
    assert starts == [0, 5, 14, 17]
    assert [whole.labels[start] for start in starts] == [MASKED] * 4
    assert len(whole.input_ids) == len(whole.labels) == len(whole.position_ids) == sum(LENGTHS)


@pytest.mark.parametrize(
    ("attention", "model_type"), [("sdpa", "mamba"), ("sdpa", "gpt2"), ("flex_attention", "llama")]
)
def test_packing_that_was_not_proven_is_refused(attention: str, model_type: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.packing: false"):
        check_packing(attention, model_type)


@given(lengths=st.lists(st.integers(1, 50), max_size=200))
def test_every_row_is_packed_once_within_the_capacity(lengths: list[int]) -> None:
    groups = pack(lengths, 50)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in group) <= 50 for group in groups)
    assert groups == sorted(groups) == [sorted(group) for group in groups]


def test_a_row_goes_where_it_leaves_the_least_room() -> None:
    assert pack([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]
    assert pack([6, 5, 4], 10) == [[0, 2], [1]]
    assert pack([5, 5, 5, 5], 10) == [[0, 1], [2, 3]]


def test_best_fit_wastes_little_room() -> None:
    torch.manual_seed(0)
    lengths = torch.randint(10, 200, (1000,)).tolist()
    assert len(pack(lengths, 256)) <= 1.03 * sum(lengths) / 256
