import torch

from tasks.data.collate import Collator

ROWS = [{"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}, {"input_ids": [1, 7], "labels": [-100, 7]}]


def test_rows_are_padded_on_the_right_where_nothing_is_seen_or_learned() -> None:
    batch = Collator(9)(ROWS)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 5, 6], [1, 7, 9]],
        "labels": [[-100, 5, 6], [-100, 7, -100]],
        "attention_mask": [[1, 1, 1], [1, 1, 0]],
    }
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_packed_rows_become_one_row_without_padding_and_attention_mask() -> None:
    batch = Collator(9)([{**row, "position_ids": list(range(len(row["input_ids"])))} for row in ROWS])
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[1, 5, 6, 1, 7]],
        "labels": [[-100, 5, 6, -100, 7]],
        "position_ids": [[0, 1, 2, 0, 1]],
    }
