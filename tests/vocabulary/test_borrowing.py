"""What another tokenizer knows and the base does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks.foundation.errors import ConfigError
from tasks.models import BaseModel
from tests.vocabulary.test_tokens import cutting, ids_in, tokenizer_of
from tests.vocabulary.worlds import OLD_TEXTS, extended, pieces_of


def other_tokenizer(folder: Path, texts: list[str]) -> Path:
    """A byte-level tokenizer of another domain."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return folder


@cutting
def test_another_tokenizers_pieces_are_taken_over_in_the_bases_own_spelling(
    sort: str, bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    other = other_tokenizer(tmp_path / "other", ["Wildwood 餐厅"] * 9)
    more, report = extended(bases[sort], tmp_path, tokenizer=str(other))
    assert report.existing_tokens > 0 and report.new_tokens > 3
    pieces = tokenizer_of(more).tokenize("the Wildwood 餐厅")
    assert len(pieces) <= 5, pieces
    assert "<pad>" not in [token["piece"] for token in pieces_of(more)]
    old = [text for text in OLD_TEXTS if max(ids_in(more, text)) < report.first_id]
    assert old and all(ids_in(more, text) == ids_in(bases[sort], text) for text in old)


def test_what_no_chain_of_merges_reaches_is_left_out_and_counted(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "▁Wildwood": 1, "▁W": 2, "▁Wi": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>"])
    (tmp_path / "other").mkdir()
    tokenizer.save(str(tmp_path / "other" / "tokenizer.json"))
    more, report = extended(bases["sentencepiece"], tmp_path, tokenizer=str(tmp_path / "other"))
    assert [token["piece"] for token in pieces_of(more)] == ["▁W", "▁Wi"]
    assert report.unreachable_tokens == 1


def test_a_tokenizer_with_nothing_new_is_refused(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knows no token that the base lacks"):
        extended(bases["byte-level"], tmp_path, tokenizer=str(bases["byte-level"].path))
