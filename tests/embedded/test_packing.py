"""Rows for pretraining."""

import torch

from tasks.embedded.corpus import documents
from tasks.embedded.packing import MASKED, pack, repeat
from tasks.embedded.tokenizer import BOS_ID, EOS_ID, train_tokenizer


def test_end_tokens_are_learnt_and_start_tokens_are_not() -> None:
    texts = list(documents(200))
    rows = pack(train_tokenizer((text.given + text.learnt for text in texts), 512), texts, 64)
    assert (rows.tokens == EOS_ID).sum() > 150
    assert torch.equal(rows.labels[rows.tokens == EOS_ID], rows.tokens[rows.tokens == EOS_ID])
    assert (rows.labels[rows.tokens == BOS_ID] == MASKED).all()


def test_what_is_given_is_masked_and_what_is_learnt_is_its_own_label() -> None:
    texts = list(documents(200))
    tokenizer = train_tokenizer((text.given + text.learnt for text in texts), 512)
    rows = pack(tokenizer, texts[:1], 1)
    given = len(tokenizer.encode(texts[0].given).ids)
    assert rows.labels.flatten().tolist() == [MASKED] * given + rows.tokens.flatten().tolist()[given:]


def test_a_repeated_row_can_be_known_wherever_it_has_a_label() -> None:
    torch.manual_seed(0)
    rows = repeat(vocab_size=500, count=20, length=64)
    for tokens, labels in zip(rows.tokens.tolist(), rows.labels.tolist(), strict=True):
        period = next(period for period in range(4, 33) if tokens[period:] == tokens[:-period])
        assert labels == [MASKED] * (period + 1) + tokens[period + 1 :]
    assert rows.tokens.min() > EOS_ID
