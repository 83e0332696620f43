"""The step: what decides its key, what is read back and recorded, and that nobody gets it who did not ask."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.artifacts import ArtifactStore
from tasks.data.settings import DataSettings
from tasks.data.tokenize import tokenize_key
from tasks.data.values import PreparedData
from tasks.extend_vocabulary import extend_vocabulary
from tasks.foundation.errors import ConfigError, DataError
from tasks.models import BaseModel, ModelSettings, VocabularyExtension
from tasks.records import record_vocabulary
from tasks.vocabulary import ExtendedBase, ExtensionJob, extension_job, vocabulary_key
from tasks.workspace import Place, Workspace
from tests.data.worlds import pairs, prepared, write_jsonl
from tests.records.worlds import World
from tests.vocabulary.worlds import base_in, job_on, pieces_of, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_in(write_base(tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("rows")
    return prepared(
        DataSettings(train=write_jsonl(folder / "rows.jsonl", pairs(40)), eval_fraction=0.3), folder / "out"
    )


def settings_for(base: BaseModel, **wanted: Any) -> ModelSettings:
    wanted = {"train": {"size": 6}, "steps": 2, "max_length": 32} | wanted
    return ModelSettings(name_or_path=str(base.path), extend_vocabulary=VocabularyExtension.model_validate(wanted))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    workspace = Workspace(runs=tmp_path / "runs")
    return Place(workspace=workspace, board=tmp_path / "board", label="shared", position=0, run=World(tmp_path).run())


def test_an_extended_base_is_a_base_with_facts_and_digests_of_its_own(
    base: BaseModel, rows: PreparedData, place: Place, tmp_path: Path
) -> None:
    place.board.mkdir()
    found = extend_vocabulary.fn(base, rows, settings_for(base), place)
    assert isinstance(found, ExtendedBase) and found.artifact is not None and not found.artifact.cached
    more = found.base
    assert (more.name, more.new_tokens, more.facts.vocab_size) == (base.name, 6, 278)
    assert more.path == found.artifact.path and more.digest != base.digest
    assert more.tokenizer_digest != base.tokenizer_digest and found.origin == base.digest
    assert tokenize_key(rows, more, DataSettings(train="x")) != tokenize_key(rows, base, DataSettings(train="x"))

    run = World(tmp_path).arrived()
    values = {point.name: point.value for point in run.metrics.values()}
    assert values["vocabulary/new_tokens"] == 6 and values["vocabulary/vocab_size"] == 278
    assert values["vocabulary/loss_trained"] < values["vocabulary/loss_mean_start"]
    assert values["vocabulary/tokens_per_character_after"] < values["vocabulary/tokens_per_character_before"]
    assert run.tags["tuneline.extended_from"] == base.digest
    assert {"vocabulary/report.json", "vocabulary/new_tokens.jsonl"} <= set(run.artifacts)


def test_asked_again_it_is_adopted(base: BaseModel, rows: PreparedData, place: Place) -> None:
    place.board.mkdir()
    first = extend_vocabulary.fn(base, rows, settings_for(base), place)
    again = extend_vocabulary.fn(base, rows, settings_for(base), place)
    assert isinstance(first, ExtendedBase) and not isinstance(again, ExtendedBase)
    assert again.name == "Cached" and again.data.base == first.base


def test_without_the_setting_the_base_goes_on_as_it_was_found(
    base: BaseModel, rows: PreparedData, place: Place, tmp_path: Path
) -> None:
    found = extend_vocabulary.fn(base, rows, ModelSettings(name_or_path=str(base.path)), place)
    assert found == ExtendedBase(base=base)
    record_vocabulary(found, [place.run])
    assert not World(tmp_path).arrived().metrics and not (tmp_path / "runs").exists()


def test_without_a_text_the_training_rows_are_learnt_from_and_no_evaluation_row(
    base: BaseModel, rows: PreparedData, tmp_path: Path
) -> None:
    from tasks.vocabulary.texts import read_texts

    job = extension_job(base, rows, settings_for(base))
    assert job is not None
    texts = read_texts(job)
    assert len(texts) == rows.report.train_rows > rows.report.eval_rows > 0
    held_out = (rows.artifact.path / "eval.jsonl").read_text(encoding="utf-8")
    assert not [text for text in texts if f'"{text.splitlines()[0]}"' in held_out]


def test_what_decides_the_base_decides_the_key_wherever_it_lies(base: BaseModel, tmp_path: Path) -> None:
    job = job_on(base, tmp_path / "here", train={"size": 6})
    elsewhere = job_on(base, tmp_path / "there", train={"size": 6})
    assert vocabulary_key(job) == vocabulary_key(elsewhere)
    named = tmp_path / "tokens.txt"
    named.write_text("Wildwood\n")
    by_hand, by_file = (
        job_on(base, tmp_path / "here", **way) for way in ({"tokens": ["Wildwood"]}, {"file": str(named)})
    )
    assert vocabulary_key(by_hand) == vocabulary_key(by_file)

    changed: list[ExtensionJob] = [job_on(base, tmp_path / "other text", texts=["other"], train={"size": 6})]
    for change in ({"size": 7}, {"size": 6, "min_count": 3}):
        changed.append(job_on(base, tmp_path / "here", train=change))
    for setting in ({"steps": 3}, {"learning_rate": 0.1}, {"batch_size": 9}, {"max_length": 9}, {"seed": 9}):
        changed.append(job_on(base, tmp_path / "here", train={"size": 6}, **setting))
    changed.append(job.model_copy(update={"base": base.model_copy(update={"digest": "other"})}))
    changed.append(job.model_copy(update={"device": "accelerator"}))
    changed.append(by_hand)
    keys = [vocabulary_key(other) for other in (job, *changed)]
    assert len(set(keys)) == len(keys)
    assert vocabulary_key(job.model_copy(update={"base": base.model_copy(update={"dtype": "bfloat16"})})) == keys[0]


def test_a_damaged_extension_is_made_again(base: BaseModel, rows: PreparedData, place: Place) -> None:
    place.board.mkdir()
    first = extend_vocabulary.fn(base, rows, settings_for(base), place)
    weights = first.base.path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = extend_vocabulary.fn(base, rows, settings_for(base), place)
    assert isinstance(again, ExtendedBase) and again.base == first.base
    assert weights.read_bytes() == content


def test_the_files_are_looked_at_before_a_process_is_started(
    base: BaseModel, rows: PreparedData, tmp_path: Path
) -> None:
    for wanted in ({"train": None, "file": str(tmp_path / "no.txt")}, {"text": str(tmp_path / "no.txt")}):
        with pytest.raises(DataError, match=r"no\.txt cannot be read: No such file") as caught:
            extension_job(base, rows, settings_for(base, **wanted))
        assert caught.value.exit_code == 11
    slow = tmp_path / "slow"
    shutil.copytree(base.path, slow)
    (slow / "tokenizer.json").rename(slow / "tokenizer.model")
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        extension_job(base.model_copy(update={"path": slow}), rows, settings_for(base))


def test_the_artifact_lists_its_tokens_with_their_ids(base: BaseModel, tmp_path: Path) -> None:
    from tasks.vocabulary.extend import extend

    job = job_on(base, tmp_path / "texts", train={"size": 3})
    made = ArtifactStore(tmp_path / "store").make("vocabulary", "k", lambda out: extend(job, out, lambda *_: None))
    listed = pieces_of(base.model_copy(update={"path": made.path}))
    assert [token["id"] for token in listed] == [272, 273, 274]
    assert all(len(token["parts"]) > 1 for token in listed)


def test_the_embedded_base_is_extended_like_any_other(tmp_path: Path) -> None:
    from tasks.embedded.pretrain import build_base
    from tasks.vocabulary.extend import extend
    from tests.embedded.test_pretrain import TINY

    (tmp_path / "base").mkdir()
    build_base(tmp_path / "base", lambda *_: None, TINY)
    job = job_on(base_in(tmp_path / "base"), tmp_path / "texts", train={"size": 9}, steps=2, max_length=32)
    (tmp_path / "out").mkdir()
    report = extend(job, tmp_path / "out", lambda *_: None)
    assert (report.first_id, report.vocab_size) == (512, 521) == (512, base_in(tmp_path / "out").facts.vocab_size)
    assert report.tokens_per_character_after < report.tokens_per_character_before
