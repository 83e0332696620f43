import json
from pathlib import Path
from typing import Any

import pytest

from tasks.data.prepare import prepare, prepare_key
from tasks.data.rows import read_eval_rows, read_rows
from tasks.data.settings import DataSettings, DataSource
from tasks.data.values import PreparedData
from tasks.foundation.errors import DataError
from tests.data.worlds import SHARED, pairs, prepared, write_jsonl

E2E = SHARED / "data" / "e2e_nlg"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Settings of a clean pair of files."""
    return {
        "train": write_jsonl(tmp_path / "train.jsonl", pairs(20)),
        "eval": write_jsonl(tmp_path / "eval.jsonl", pairs(5, start=100)),
    }


def train_ids(found: PreparedData) -> list[str]:
    return [row.id for row in read_rows(found.artifact.path / "train.jsonl")]


def eval_ids(found: PreparedData) -> list[str]:
    return [row.id for row in read_eval_rows(found.artifact.path / "eval.jsonl")]


def test_rows_report_and_quarantine_are_written(files: dict[str, Any], tmp_path: Path) -> None:
    found = prepared(DataSettings(**files), tmp_path)
    report = found.report
    assert (report.read_rows, report.train_rows, report.eval_rows, report.bad_rows) == (25, 20, 5, 0)
    assert report.rows_by_source == {files["train"]: 20, files["eval"]: 5}
    assert report.formats == {files["train"]: "prompt_completion", files["eval"]: "prompt_completion"}
    assert (found.artifact.path / "quarantine.jsonl").read_text() == ""
    lines = {row.answer: row.source for row in read_rows(found.artifact.path / "train.jsonl")}
    assert lines["answer 3"] == f"{files['train']}:4"


def test_a_bad_row_fails_the_step_by_default_and_is_named(files: dict[str, Any], tmp_path: Path) -> None:
    rows = [*pairs(3), {"prompt": "x"}, {"prompt": "", "completion": "y"}, *pairs(3, start=3)]
    files["train"] = write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError) as refused:
        prepared(DataSettings(**files), tmp_path)
    message = str(refused.value)
    assert f"{files['train']}:4: missing_field (completion); {files['train']}:5: empty_field (prompt)" in message
    assert "2 of 13 rows are bad (15.38%: empty_field 1, missing_field 1)" in message
    assert refused.value.where == f"{files['train']}:4"


def test_allowed_bad_rows_are_counted_and_quarantined(files: dict[str, Any], tmp_path: Path) -> None:
    Path(files["train"]).write_text('{"prompt": "x", "compl\n' + Path(files["train"]).read_text())
    files |= {
        "max_row_characters": 19,
        "eval": write_jsonl(tmp_path / "eval.jsonl", [{"prompt": "p", "completion": "c"}]),
    }
    found = prepared(DataSettings(**files, max_bad_fraction=0.6), tmp_path)
    assert found.report.bad_by_reason == {"invalid_json": 1, "too_long": 10}
    quarantined = [json.loads(line) for line in (found.artifact.path / "quarantine.jsonl").read_text().splitlines()]
    assert len(quarantined) == 11
    assert (quarantined[0]["line"], quarantined[0]["reason"]) == (1, "invalid_json")
    assert quarantined[0]["excerpt"] == '{"prompt": "x", "compl'
    assert quarantined[1]["file"] == files["train"]


def test_the_allowed_share_of_bad_rows_is_inclusive(files: dict[str, Any], tmp_path: Path) -> None:
    files["train"] = write_jsonl(tmp_path / "train.jsonl", [*pairs(19), {"prompt": "x"}])
    prepared(DataSettings(**files, max_bad_fraction=0.04), tmp_path)
    with pytest.raises(DataError):
        prepared(DataSettings(**files, max_bad_fraction=0.039), tmp_path)


def test_exactly_the_planted_duplicates_are_found(files: dict[str, Any], tmp_path: Path) -> None:
    again = [{"messages": [{"role": "user", "content": "question 1"}, {"role": "assistant", "content": "answer 1"}]}]
    other = write_jsonl(tmp_path / "other.jsonl", again)
    files["train"] = (
        DataSource(path=write_jsonl(tmp_path / "train.jsonl", pairs(20) + pairs(7))),
        DataSource(path=other),
    )
    report = prepared(DataSettings(**files), tmp_path).report
    assert (report.duplicate_rows, report.train_rows, report.rows_by_source[other]) == (8, 20, 0)


def test_a_leak_fails_by_default_and_names_its_rows(files: dict[str, Any], tmp_path: Path) -> None:
    leaked = [{"instruction": "question 3", "output": " answer 3 "}, {"instruction": "new", "output": "new"}]
    files["eval"] = write_jsonl(tmp_path / "eval.jsonl", leaked)
    with pytest.raises(DataError, match=r"1 training rows are evaluation rows too.*train\.jsonl:4"):
        prepared(DataSettings(**files), tmp_path)


@pytest.mark.parametrize(("policy", "left"), [("drop", 15), ("report", 20)])
def test_the_leak_policy_drops_from_training_or_only_reports(
    policy: Any, left: int, files: dict[str, Any], tmp_path: Path
) -> None:
    files["eval"] = write_jsonl(tmp_path / "eval.jsonl", pairs(5) + pairs(5, start=100))
    report = prepared(DataSettings(**files, on_leak=policy), tmp_path).report
    assert (report.leaked_rows, report.train_rows, report.eval_rows, report.unused_rows) == (5, left, 10, 0)


def test_without_an_evaluation_file_rows_are_held_out_and_stay_so_when_rows_are_added(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    first = prepared(DataSettings(train=write_jsonl(path, pairs(200)), eval_fraction=0.2), tmp_path)
    second = prepared(DataSettings(train=write_jsonl(path, pairs(400)[::-1]), eval_fraction=0.2), tmp_path)
    assert first.report.train_rows + first.report.eval_rows == 200
    assert set(eval_ids(first)) <= set(eval_ids(second))
    assert set(train_ids(first)) <= set(train_ids(second))


def test_a_reordered_file_gives_the_same_rows_in_the_same_order(files: dict[str, Any], tmp_path: Path) -> None:
    settings = DataSettings(**files, max_train_rows=10, max_eval_rows=3)
    first = prepared(settings, tmp_path)
    write_jsonl(tmp_path / "train.jsonl", pairs(20)[::-1])
    second = prepared(settings, tmp_path)
    assert first.artifact.key != second.artifact.key
    assert first.report.digest == second.report.digest
    assert train_ids(first) == train_ids(second)


def test_the_report_counts_rows_that_limits_and_weights_leave_out(files: dict[str, Any], tmp_path: Path) -> None:
    assert prepared(DataSettings(**files, max_train_rows=8, max_eval_rows=2), tmp_path).report.unused_rows == 15
    more = DataSource(path=write_jsonl(tmp_path / "more.jsonl", pairs(90, start=200)), weight=2)
    files["train"] = (DataSource(path=files["train"]), more)
    report = prepared(DataSettings(**files), tmp_path).report
    assert (report.train_rows, report.rows_by_source[more.path], report.unused_rows) == (60, 40, 50)


def test_the_seed_moves_the_draw(files: dict[str, Any], tmp_path: Path) -> None:
    draws = [train_ids(prepared(DataSettings(**files, max_train_rows=8, seed=seed), tmp_path)) for seed in (0, 1)]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("train", "evaluation", "complaint"),
    [([], pairs(3), "no training row"), (pairs(3), [], "no evaluation row"), (pairs(1), None, "eval_fraction")],
)
def test_nothing_to_train_or_to_judge_by_is_refused(
    train: Any, evaluation: Any, complaint: str, tmp_path: Path
) -> None:
    fields = {"train": write_jsonl(tmp_path / "train.jsonl", train)}
    if evaluation is not None:
        fields["eval"] = write_jsonl(tmp_path / "eval.jsonl", evaluation)
    with pytest.raises(DataError, match=complaint):
        prepared(DataSettings(**fields, eval_fraction=0.001), tmp_path)


def test_the_same_input_gives_the_same_bytes(files: dict[str, Any], tmp_path: Path) -> None:
    settings = DataSettings(**files)
    assert prepared(settings, tmp_path / "a").artifact.digest == prepared(settings, tmp_path / "b").artifact.digest


CHANGES: dict[str, Any] = {
    "max_train_rows": 7,
    "max_eval_rows": 2,
    "max_bad_fraction": 0.5,
    "max_row_characters": 99,
    "on_leak": "drop",
    "seed": 3,
    "columns": {"prompt": "prompt"},
    "format": "prompt_completion",
    "eval": None,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_setting_that_decides_the_rows_changes_the_key(field: str, files: dict[str, Any]) -> None:
    assert prepare_key(DataSettings(**files)) != prepare_key(DataSettings(**{**files, field: CHANGES[field]}))


@pytest.mark.parametrize(
    "change",
    [
        {"max_seq_length": 77},
        {"truncation": "truncate"},
        {"template": "{prompt}: {completion}"},
        {"use_chat_template": False},
        {"train_on_prompt": True},
        {"packing": True},
        {"eval_fraction": 0.3},
    ],
)
def test_a_setting_that_does_not_decide_the_rows_keeps_the_key(change: dict[str, Any], files: dict[str, Any]) -> None:
    assert prepare_key(DataSettings(**files)) == prepare_key(DataSettings(**files, **change))


def test_the_bytes_of_a_file_decide_the_key_and_its_times_do_not(files: dict[str, Any]) -> None:
    import os

    key = prepare_key(DataSettings(**files))
    os.utime(files["train"], (0, 0))
    assert prepare_key(DataSettings(**files)) == key
    Path(files["train"]).write_bytes(Path(files["train"]).read_bytes() + b"\n")
    assert prepare_key(DataSettings(**files)) != key


def test_the_held_out_share_decides_the_key_where_rows_are_held_out(files: dict[str, Any]) -> None:
    keys = {prepare_key(DataSettings(train=files["train"], eval_fraction=share)) for share in (0.1, 0.2)}
    assert len(keys) == 2


@pytest.mark.skipif(not E2E.exists(), reason="the shared E2E data is not here")
def test_real_rows_that_share_a_prompt_become_references_of_one_another(tmp_path: Path) -> None:
    columns = {"prompt": "mr", "completion": "ref"}
    dev, test = str(E2E / "devset.csv"), str(E2E / "testset_w_refs.csv")
    found = prepared(DataSettings(train=test, eval=dev, columns=columns, max_eval_rows=100), tmp_path)
    rows = read_eval_rows(found.artifact.path / "eval.jsonl")
    assert (found.report.read_rows, found.report.bad_rows, len(rows)) == (4672 + 4693, 0, 100)
    assert len({row.prompt for row in rows}) > 80
    assert all(row.references[0] == row.answer and len(set(row.references)) == len(row.references) for row in rows)
    assert sum(len(row.references) for row in rows) > 700


@pytest.mark.skipif(not E2E.exists(), reason="the shared E2E data is not here")
def test_all_real_rows_hold_547_prompts_and_151_duplicates(tmp_path: Path) -> None:
    columns = {"prompt": "mr", "completion": "ref"}
    train = write_jsonl(tmp_path / "train.jsonl", [{"mr": "x", "ref": "y"}])
    found = prepared(DataSettings(train=train, eval=str(E2E / "devset.csv"), columns=columns), tmp_path)
    rows = read_eval_rows(found.artifact.path / "eval.jsonl")
    assert (found.report.read_rows, found.report.duplicate_rows, len(rows)) == (4673, 151, 4521)
    assert len({row.prompt for row in rows}) == 547


def test_too_many_bad_rows_leave_all_of_them_in_the_quarantine_file(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\nnot json\n', encoding="utf-8")
    folder, kept = tmp_path / "folder", tmp_path / "kept.jsonl"
    folder.mkdir()
    with pytest.raises(DataError, match=r"2 of 3 rows are bad.*all are in .*kept\.jsonl"):
        prepare(DataSettings(train=str(source)), folder, kept)
    assert [json.loads(line)["line"] for line in kept.read_text().splitlines()] == [2, 3]
