from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import Artifact
from tasks.data.settings import DataSettings
from tasks.data.tokenize import tokenize_key
from tasks.data.values import DataReport, PreparedData
from tasks.foundation.errors import ConfigError, DataError, ModelError
from tasks.models.values import BaseModel
from tests.data.worlds import (
    CHATML,
    base_model,
    make_sparse_tokenizer,
    make_tokenizer,
    pairs,
    prepared,
    tokenized,
    write_jsonl,
)

LONG = "word " * 60


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_model(make_tokenizer(), tmp_path_factory.mktemp("base"))


def settings(tmp_path: Path, rows: list[dict[str, str]], **fields: Any) -> DataSettings:
    evaluation = write_jsonl(tmp_path / "eval.jsonl", pairs(3, start=9000))
    return DataSettings(train=write_jsonl(tmp_path / "train.jsonl", rows), eval=evaluation, **fields)


def sequences(artifact: Artifact, name: str = "train") -> list[dict[str, Any]]:
    import datasets

    return list(datasets.Dataset.from_file(str(artifact.path / f"{name}.arrow")))


def test_the_sequences_are_read_by_datasets_and_hold_the_rows_in_order(base: BaseModel, tmp_path: Path) -> None:
    chosen = settings(tmp_path, pairs(2500))
    found = tokenized(chosen, base, tmp_path)
    rows = sequences(found.artifact)
    assert (len(rows), len(sequences(found.artifact, "eval"))) == (2500, 3)
    assert list(rows[0]) == ["id", "input_ids", "labels", "length"]
    ids = [line.split('"')[3] for line in (prepared(chosen, tmp_path).artifact.path / "train.jsonl").open()]
    assert [row["id"] for row in rows] == ids
    assert all(row["length"] == len(row["input_ids"]) == len(row["labels"]) for row in rows)
    assert found.report.train_tokens == sum(row["length"] for row in rows)
    assert found.report.answer_tokens == sum(label != -100 for row in rows for label in row["labels"])


def test_the_same_rows_give_the_same_bytes(base: BaseModel, tmp_path: Path) -> None:
    chosen = settings(tmp_path, pairs(50), packing=True, max_seq_length=64)
    digests = {tokenized(chosen, base, tmp_path / name).artifact.digest for name in ("a", "b")}
    assert len(digests) == 1


def test_the_sample_shows_what_is_learned(base: BaseModel, tmp_path: Path) -> None:
    found = tokenized(settings(tmp_path, pairs(1)), base, tmp_path)
    sample = (found.artifact.path / "sample.md").read_text()
    assert 'masked  "<s>question 0\\n"\nlearned "answer 0</s>"' in sample


def test_long_rows_are_dropped_and_counted(base: BaseModel, tmp_path: Path) -> None:
    rows = [*pairs(4), {"prompt": LONG, "completion": "a"}, {"prompt": "q", "completion": LONG}]
    report = tokenized(settings(tmp_path, rows, max_seq_length=64), base, tmp_path).report
    assert (report.train_sequences, report.dropped_rows, report.truncated_rows) == (4, 2, 0)
    assert report.length_max <= 64


def test_truncation_cuts_the_prompt_from_the_left_and_never_the_answer(base: BaseModel, tmp_path: Path) -> None:
    rows = [{"prompt": LONG + "the end", "completion": "an answer"}, {"prompt": "q", "completion": LONG}]
    found = tokenized(settings(tmp_path, rows, max_seq_length=40, truncation="truncate"), base, tmp_path)
    report = found.report
    assert (report.truncated_rows, report.dropped_rows, report.answer_too_long_rows) == (1, 1, 1)
    row = sequences(found.artifact)[0]
    text = make_tokenizer().decode(row["input_ids"])
    assert len(row["input_ids"]) == 40
    assert text.startswith("<s>")
    assert text.endswith("word the end\nan answer</s>")
    assert make_tokenizer().decode([label for label in row["labels"] if label != -100]) == "an answer</s>"


def test_a_cut_row_without_bos_has_its_first_label_masked(tmp_path: Path) -> None:
    base = base_model(make_tokenizer(bos=False), tmp_path / "base")
    chosen = {"max_seq_length": 40, "truncation": "truncate", "train_on_prompt": True}
    rows = [{"prompt": LONG, "completion": "an answer"}]
    labels = sequences(tokenized(settings(tmp_path, rows, **chosen), base, tmp_path).artifact)[0]["labels"]
    assert (len(labels), labels[0], -100 in labels[1:]) == (40, -100, False)


def test_an_answer_that_just_fits_is_kept_whole(base: BaseModel, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    answer = len(tokenizer("an answer", add_special_tokens=False)["input_ids"]) + 1
    rows = [{"prompt": LONG, "completion": "an answer"}]
    for limit, kept in ((answer + 1, True), (answer, False)):
        chosen = settings(
            tmp_path, [*rows, {"prompt": "q", "completion": "a"}], max_seq_length=limit, truncation="truncate"
        )
        chosen = chosen.model_copy(
            update={"eval": write_jsonl(tmp_path / "eval.jsonl", [{"prompt": "p", "completion": "c"}])}
        )
        report = tokenized(chosen, base, tmp_path).report
        assert (report.truncated_rows, report.answer_too_long_rows) == ((1, 0) if kept else (0, 1))


def test_the_policy_error_names_the_row(base: BaseModel, tmp_path: Path) -> None:
    rows = [*pairs(4), {"prompt": LONG, "completion": "a"}]
    with pytest.raises(DataError, match=r"train\.jsonl:5: the row has \d+ tokens. Allowed: 64"):
        tokenized(settings(tmp_path, rows, max_seq_length=64, truncation="error"), base, tmp_path)


def test_dropped_evaluation_rows_are_counted_apart(base: BaseModel, tmp_path: Path) -> None:
    chosen = settings(tmp_path, pairs(4), max_seq_length=64)
    write_jsonl(tmp_path / "eval.jsonl", [*pairs(2, start=100), {"prompt": LONG, "completion": "a"}])
    report = tokenized(chosen, base, tmp_path).report
    assert (report.eval_sequences, report.eval_dropped_rows, report.dropped_rows) == (2, 1, 1)


def test_nothing_left_to_learn_is_refused(base: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no training row is left: 1 are over 64 tokens"):
        tokenized(settings(tmp_path, [{"prompt": LONG, "completion": "a"}], max_seq_length=64), base, tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    small = base_model(make_tokenizer(), tmp_path / "base", vocab_size=100)
    with pytest.raises(ModelError, match="100"):
        tokenized(settings(tmp_path, pairs(4)), small, tmp_path)


def test_an_id_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    base = base_model(make_sparse_tokenizer(), tmp_path / "base", vocab_size=320)
    with pytest.raises(ModelError, match="the tokenizer gives the id 700, the model knows 320 tokens"):
        tokenized(settings(tmp_path, pairs(4)), base, tmp_path)


def test_rows_over_the_models_context_are_refused(tmp_path: Path) -> None:
    short = base_model(make_tokenizer(), tmp_path / "base", context=32)
    with pytest.raises(ModelError, match=r"Set data\.max_seq_length: 32"):
        tokenized(settings(tmp_path, [{"prompt": LONG, "completion": "a"}]), short, tmp_path)


def test_packing_fills_sequences_with_all_rows(base: BaseModel, tmp_path: Path) -> None:
    plain, packed = (
        tokenized(settings(tmp_path, pairs(100), packing=on, max_seq_length=128), base, tmp_path)
        for on in (False, True)
    )
    assert packed.report.packed_rows == 100
    assert packed.report.train_sequences < 100
    assert packed.report.train_tokens == plain.report.train_tokens
    rows = sequences(packed.artifact)
    assert sum(row["position_ids"].count(0) for row in rows) == 100
    assert max(row["length"] for row in rows) <= 128
    assert "position_ids" not in sequences(packed.artifact, "eval")[0]


def test_packing_is_refused_where_rows_might_see_each_other(base: BaseModel, tmp_path: Path) -> None:
    foreign = base.model_copy(update={"facts": base.facts.model_copy(update={"model_type": "mamba"})})
    with pytest.raises(ConfigError, match="mamba"):
        tokenized(settings(tmp_path, pairs(4), packing=True), foreign, tmp_path)


def test_a_chat_template_is_named_in_the_report(tmp_path: Path) -> None:
    base = base_model(make_tokenizer(CHATML), tmp_path / "base")
    assert tokenized(settings(tmp_path, pairs(4)), base, tmp_path).report.template.startswith("chat:")


CHANGES: dict[str, Any] = {
    "max_seq_length": 77,
    "truncation": "truncate",
    "template": "{prompt}: {completion}",
    "use_chat_template": False,
    "train_on_prompt": True,
    "packing": True,
}


def rows_with(digest: str, path: str = "/a") -> PreparedData:
    counts = dict.fromkeys(DataReport.model_fields, 0)
    words = {"digest": digest, "bad_by_reason": {}, "first_bad": (), "rows_by_source": {}, "formats": {}}
    artifact = Artifact(step="prepare", key=path, path=Path(path), digest=path)
    return PreparedData(artifact=artifact, report=DataReport.model_validate({**counts, **words}))


@pytest.mark.parametrize("field", CHANGES)
def test_a_setting_that_decides_the_tokens_changes_the_key(field: str, base: BaseModel) -> None:
    before, after = DataSettings(train="-"), DataSettings(train="-", **{field: CHANGES[field]})
    assert tokenize_key(rows_with("a"), base, before) != tokenize_key(rows_with("a"), base, after)


def test_rows_and_tokenizer_decide_the_key(base: BaseModel) -> None:
    chosen = DataSettings(train="-")
    key = tokenize_key(rows_with("a"), base, chosen)
    assert tokenize_key(rows_with("b"), base, chosen) != key
    assert tokenize_key(rows_with("a"), base.model_copy(update={"tokenizer_digest": "u"}), chosen) != key


def test_what_packing_was_checked_against_decides_its_key(base: BaseModel) -> None:
    eager = base.model_copy(update={"attn_implementation": "eager"})
    for packing in (True, False):
        chosen = DataSettings(train="-", packing=packing)
        same = tokenize_key(rows_with("a"), base, chosen) == tokenize_key(rows_with("a"), eager, chosen)
        assert same is not packing


def test_nothing_else_decides_the_key(base: BaseModel) -> None:
    chosen = DataSettings(train="-")
    key = tokenize_key(rows_with("a"), base, chosen)
    other = DataSettings(train="elsewhere", max_bad_fraction=0.5, max_train_rows=3, seed=9, on_leak="drop")
    moved = base.model_copy(update={"digest": "w", "name": "other", "path": Path("/b"), "dtype": "float32"})
    assert tokenize_key(rows_with("a", "/elsewhere"), moved, other) == key


def test_a_looser_limit_for_bad_rows_with_the_same_rows_keeps_the_tokens(base: BaseModel, tmp_path: Path) -> None:
    strict, loose = (settings(tmp_path, pairs(4), max_bad_fraction=share) for share in (0.0, 0.5))
    found = [prepared(chosen, tmp_path) for chosen in (strict, loose)]
    assert found[0].artifact.key != found[1].artifact.key
    assert tokenize_key(found[0], base, strict) == tokenize_key(found[1], base, loose)
