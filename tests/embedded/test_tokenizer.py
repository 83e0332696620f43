"""The byte-level tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tasks.embedded.corpus import documents
from tasks.embedded.tokenizer import BOS_ID, save_tokenizer, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([document.given + document.learnt for document in documents(3000)], 1024)


@pytest.mark.parametrize(
    "text",
    [
        "This is Wild Table, a pub.",
        "名称[红叶花园], 类型[茶馆]",
        "这里叫红叶花园，是一家茶馆。\n很好！",
        "an unseen 字符: 龘, émigré, 🍜,  two  spaces\tand a tab",
    ],
)
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_chinese_characters_stand_alone_so_that_a_name_has_the_same_tokens_wherever_it_stands(
    tokenizer: Tokenizer,
) -> None:
    for text in ("名称[红叶花园]", "这里叫红叶花园，是一家茶馆。", "大家都说很好。可以带孩子来。"):
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        alone = (tokenizer.encode(character, add_special_tokens=False).ids for character in text)
        assert whole == [token for tokens in alone for token in tokens]


def test_an_english_value_has_the_same_tokens_in_a_record_and_in_a_text(tokenizer: Tokenizer) -> None:
    name = tokenizer.encode(" Wild Table", add_special_tokens=False).ids
    for text in ("name[ Wild Table]", "This is Wild Table, a pub."):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert any(ids[start : start + len(name)] == name for start in range(len(ids)))


def test_a_text_begins_with_the_start_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("This").ids[0] == BOS_ID


def test_transformers_loads_it_with_its_special_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save_tokenizer(tokenizer, tmp_path, context=512)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 1, 2)
    assert loaded.model_max_length == 512
    assert loaded("红叶花园 Wild")["input_ids"] == tokenizer.encode("红叶花园 Wild").ids
