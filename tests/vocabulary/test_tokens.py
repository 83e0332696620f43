"""Which tokens are new, and what the tokenizer does with them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tasks.foundation.errors import ConfigError, DataError
from tasks.models import BaseModel
from tests.vocabulary.worlds import OLD_TEXTS, SORTS, TEXTS, base_in, extended, pieces_of, write_base

every_sort = pytest.mark.parametrize("sort", SORTS)
cutting = pytest.mark.parametrize("sort", ["byte-level", "sentencepiece", "unigram"])
STRANGE = [
    "  two  spaces ",
    "Wildwood",
    "Wildwoods!",
    "餐厅 near the café",
    "line\nline",
    "a £20 Wildwood\tcafé's riverside",
]


def tokenizer_of(base: BaseModel) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(base.path)


def ids_in(base: BaseModel, text: str) -> list[int]:
    ids: list[int] = tokenizer_of(base)(text, add_special_tokens=False)["input_ids"]
    return ids


@every_sort
def test_learnt_tokens_shorten_the_text_that_they_were_learnt_from(
    sort: str, bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    more, report = extended(bases[sort], tmp_path, train={"size": 11})
    assert report.new_tokens == 11 and report.first_id + 11 == report.vocab_size == len(tokenizer_of(more))
    known = [sum(token < report.first_id for token in ids_in(more, text)) for text in TEXTS]
    assert sum(known) < sum(len(ids_in(bases[sort], text)) for text in TEXTS)
    if sort != "words":  # a word that was unknown is one token before and after
        assert report.tokens_per_character_after < 0.8 * report.tokens_per_character_before
        counted = sum(len(ids_in(more, text)) for text in TEXTS) / sum(map(len, TEXTS))
        assert report.tokens_per_character_after == pytest.approx(counted)


@cutting
def test_a_text_without_new_tokens_is_cut_as_before(sort: str, bases: dict[str, BaseModel], tmp_path: Path) -> None:
    more, report = extended(bases[sort], tmp_path, train={"size": 40})
    unchanged = [text for text in [*OLD_TEXTS, *STRANGE] if max(ids_in(more, text)) < report.first_id]
    assert unchanged
    assert all(ids_in(more, text) == ids_in(bases[sort], text) for text in unchanged)


@pytest.mark.parametrize("sort", ["byte-level", "sentencepiece"])
def test_a_learnt_token_stands_for_the_same_old_tokens_wherever_it_stands(
    sort: str, bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    more, _ = extended(bases[sort], tmp_path, train={"size": 40})
    parts = {token["id"]: token["parts"] for token in pieces_of(more)}
    for text in [*TEXTS, *OLD_TEXTS, *STRANGE]:
        spelt_out = [part for token in ids_in(more, text) for part in parts.get(token, [token])]
        assert spelt_out == ids_in(bases[sort], text), text


@pytest.mark.parametrize("sort", ["byte-level", "sentencepiece"])
@pytest.mark.parametrize(
    "wanted", [{"train": {"size": 40}}, {"tokens": ["Wildwood", "riverside", "café", "餐厅", "<|a|>"]}]
)
def test_what_is_encoded_comes_back(
    sort: str, wanted: dict[str, object], bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    more, _ = extended(bases[sort], tmp_path, **wanted)
    tokenizer = tokenizer_of(more)
    for text in [*TEXTS, *STRANGE, "x<|a|>y <|a|>. Wildwoodriverside"]:
        assert tokenizer.decode(ids_in(more, text)) == text


def test_learning_is_byte_pair_encoding_that_goes_on_from_the_bases_pieces(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    """Against the textbook: count all pairs anew, join the most frequent one, again and again."""
    more, _ = extended(bases["byte-level"], tmp_path, train={"size": 15})
    backend = tokenizer_of(bases["byte-level"]).backend_tokenizer
    words: Counter[tuple[str, ...]] = Counter()
    for text in TEXTS:
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            words[tuple(part.value for part in backend.model.tokenize(word))] += 1
    learnt = []
    for _ in range(15):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learnt.append("".join(best))
        words = Counter({joined(word, best): count for word, count in words.items()})
    assert [token["piece"] for token in pieces_of(more)] == learnt


def joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


@pytest.fixture
def roundabout(tmp_path: Path) -> BaseModel:
    """Knows `abc` as a + bc, and cuts it into ab and c all the same, since a + b come first."""
    folder = write_base(tmp_path / "roundabout", "sentencepiece", spare_rows=3)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["vocab"] |= {"ab": 298, "bc": 299, "abc": 300}
    document["model"]["merges"] += [["a", "b"], ["b", "c"], ["a", "bc"]]
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return base_in(folder)


@pytest.mark.parametrize("wanted", [{"train": {"size": 9}}, {"tokens": ["abcd", "xabc"]}])
def test_no_new_merge_leads_to_a_token_that_the_base_has(
    wanted: dict[str, object], roundabout: BaseModel, tmp_path: Path
) -> None:
    assert tokenizer_of(roundabout).tokenize("abc") == ["▁", "ab", "c"]
    more, report = extended(roundabout, tmp_path, texts=["abcd xabc abc"] * 3, **wanted)
    new = pieces_of(more)
    assert {"abcd", "xabc"} & {token["piece"].lstrip("▁") for token in new}
    assert "abc" not in ["".join(merge) for token in new for merge in token["merges"]]
    assert report.first_id == 301 and tokenizer_of(more).convert_ids_to_tokens(300) == "abc"


def test_a_character_that_is_spelt_in_bytes_becomes_a_token(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    more, _ = extended(bases["sentencepiece"], tmp_path, texts=["餐厅在河边"] * 3, train={"size": 20})
    pieces = [token["piece"] for token in pieces_of(more)]
    assert set("餐厅在河边") <= set(pieces) and "▁餐厅在河边" in pieces
    assert len(ids_in(bases["sentencepiece"], "餐厅")) == 7 and len(ids_in(more, "餐厅在河边")) == 1


def test_no_learnt_token_holds_two_words_or_a_word_and_its_full_stop(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    more, _ = extended(bases["sentencepiece"], tmp_path, texts=["in the Wildwood. 20 men"] * 3, train={"size": 60})
    pieces = [token["piece"] for token in pieces_of(more)]
    assert "Wildwood" in pieces or "▁Wildwood" in pieces
    assert not [piece for piece in pieces if "▁" in piece[1:] or (len(piece) > 1 and piece.endswith("."))]


def test_rare_tokens_are_not_worth_a_row_and_fewer_are_reported_not_hidden(
    bases: dict[str, BaseModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = [*TEXTS, "zyx"]
    more, report = extended(bases["byte-level"], tmp_path, texts=few, train={"size": 500, "min_count": 12})
    assert 0 < report.new_tokens < 100
    assert "500 tokens were asked for" in caplog.text
    assert "zy" not in [token["piece"] for token in pieces_of(more)]


def test_a_text_that_repeats_nothing_has_nothing_to_learn(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"extend_vocabulary\.text: .* lower train\.min_count"):
        extended(bases["byte-level"], tmp_path, texts=["xq zv"], train={"size": 5})


@every_sort
def test_a_named_token_is_one_token_in_a_text(sort: str, bases: dict[str, BaseModel], tmp_path: Path) -> None:
    more, report = extended(bases[sort], tmp_path, tokens=["Wildwood", "餐厅", "Wildwood"])
    for text, piece in (("the Wildwood is", "Wildwood"), ("a 餐厅 is", "餐厅")):
        pieces = tokenizer_of(more).tokenize(text)
        assert sum(piece in shown or "é¤" in shown for shown in pieces) == 1, pieces
        assert max(ids_in(more, text)) >= report.first_id
    assert report.existing_tokens == 1  # the one that was named twice


def test_a_space_in_front_belongs_to_the_token(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    more, report = extended(bases["byte-level"], tmp_path, tokens=[" Wildwood"])
    assert max(ids_in(more, "a Wildwood")) == report.first_id
    assert max(ids_in(more, "(Wildwood")) < report.first_id


def test_a_letter_that_is_also_the_name_of_a_byte_is_built_into_the_model(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    """As a plain added token `café` would decode to the bytes that its letters name, the last of which is no text."""
    more, report = extended(bases["byte-level"], tmp_path, tokens=["café"])
    assert tokenizer_of(more).decode(ids_in(more, "a café b")) == "a café b"
    named = [token for token in pieces_of(more) if token["asked_for"]]
    assert [token["piece"] for token in named] == ["cafÃ©"] and report.steps_of_merging == report.new_tokens - 1
    assert named[0]["id"] in ids_in(more, "a café b")


def test_tokens_that_the_base_has_are_left_out_and_counted(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    more, report = extended(bases["byte-level"], tmp_path, tokens=["the", " the", "Wildwood"])
    assert (report.new_tokens, report.existing_tokens) == (1, 2)
    assert [token["piece"] for token in pieces_of(more)] == ["Wildwood"]


def test_naming_only_what_the_base_has_is_refused(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the base has every token that is named \(2\)") as caught:
        extended(bases["byte-level"], tmp_path, tokens=["the", " the"])
    assert caught.value.exit_code == 10


def test_a_file_names_one_token_per_line(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("Wildwood\r\n\n riverside\n", encoding="utf-8")
    more, _ = extended(bases["byte-level"], tmp_path, file=str(tmp_path / "tokens.txt"))
    assert [token["piece"] for token in pieces_of(more)] == ["Wildwood", " riverside"]


@pytest.mark.parametrize(("sort", "name"), [("sentencepiece", "LlamaTokenizer"), ("byte-level", "GPT2Tokenizer")])
@pytest.mark.parametrize("wanted", [{"train": {"size": 20}}, {"tokens": ["<|tool|>", "餐厅"]}])
def test_a_class_that_builds_its_own_pipeline_reads_the_extended_vocabulary(
    sort: str, name: str, wanted: dict[str, object], bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    """transformers' classes take vocabulary and merges out of tokenizer.json, and the rest from their own code."""
    folder = tmp_path / "base"
    shutil.copytree(bases[sort].path, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": name, "unk_token": "<unk>" if sort == "sentencepiece" else "</s>"}
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    base = base_in(folder)
    more, report = extended(base, tmp_path, **wanted)
    tokenizer = tokenizer_of(more)
    assert type(tokenizer).__name__ == name and len(tokenizer) == report.vocab_size
    ids = list(range(report.first_id, report.vocab_size))
    assert tokenizer.convert_ids_to_tokens(ids) == [token["piece"] for token in pieces_of(more)]
    assert max(ids_in(more, "the Wildwood <|tool|> 餐厅")) >= report.first_id
    assert all(ids_in(more, text) == ids_in(base, text) for text in OLD_TEXTS)


def test_special_tokens_behind_the_models_vocabulary_keep_their_ids(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    """A reader numbers added tokens from the size of the model's vocabulary on, which has grown past them."""
    more, report = extended(bases["byte-level"], tmp_path, train={"size": 10})
    old, new = tokenizer_of(bases["byte-level"]), tokenizer_of(more)
    assert (new.bos_token_id, new.eos_token_id) == (old.bos_token_id, old.eos_token_id) == (270, 271)
    assert new("<s>the cat</s>")["input_ids"] == old("<s>the cat</s>")["input_ids"]
    assert report.first_id == 272


def test_files_that_hold_the_old_vocabulary_only_are_not_handed_on(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(bases["byte-level"].path, folder)
    for name, text in (("vocab.json", "{}"), ("merges.txt", ""), ("chat_template.jinja", "{{ messages }}")):
        (folder / name).write_text(text)
    more, _ = extended(base_in(folder), tmp_path, train={"size": 3})
    names = {path.name for path in more.path.iterdir()}
    assert {"chat_template.jinja", "generation_config.json", "tokenizer_config.json"} <= names
    assert not {"vocab.json", "merges.txt"} & names


def test_a_base_without_a_fast_tokenizer_is_refused_with_the_way_out(
    bases: dict[str, BaseModel], tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(bases["byte-level"].path, folder)
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json: only a fast tokenizer .*save_pretrained") as caught:
        extended(base_in(folder), tmp_path, train={"size": 3})
    assert caught.value.exit_code == 10


def test_a_kind_of_tokenizer_that_cannot_grow_is_refused_by_name(bases: dict[str, BaseModel], tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(bases["byte-level"].path, folder)
    document = json.loads((folder / "tokenizer.json").read_text())
    document["model"]["type"] = "WordPiece"
    (folder / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(
        ConfigError, match=r"a WordPiece tokenizer cannot be extended\. Allowed: BPE, Unigram, WordLevel"
    ):
        extended(base_in(folder), tmp_path, train={"size": 3})
