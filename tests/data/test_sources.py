from pathlib import Path

import pytest

from tasks.data.reading import read_source
from tasks.data.settings import DataSettings, DataSource
from tasks.data.sources import Source, resolve_sources
from tasks.embedded import TASKS
from tasks.foundation.errors import DataError, DependencyError
from tests.data.worlds import pairs, write_jsonl

COMMIT = "0123456789" * 4


def resolve(path: str, **fields: str) -> Source:
    return resolve_sources(DataSettings(train=(DataSource(path=path, **fields),)), "train")[0]


def test_a_glob_is_read_in_sorted_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "deep/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_jsonl(tmp_path / name, pairs(1))
    assert [path.name for path in resolve(str(tmp_path / "*.jsonl")).files] == ["a.jsonl", "b.jsonl"]
    assert [path.name for path in resolve(str(tmp_path / "**/*.jsonl")).files] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_missing_file_gets_a_suggestion_from_where_it_was_looked_for(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "trainset.jsonl", [])
    with pytest.raises(DataError, match=r"Did you mean .*/trainset\.jsonl\?"):
        resolve(str(tmp_path / "trainsett.jsonl"))
    with pytest.raises(DataError, match=r"there is: trainset\.jsonl"):
        resolve(str(tmp_path / "zzz"))
    with pytest.raises(DataError, match=r"Did you mean .*/trainset\.jsonl\?"):
        resolve(str(tmp_path / "trainset.json" / "deeper.jsonl"))


def test_a_link_to_nothing_is_not_told_to_be_named_like_itself(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "moved.jsonl")
    with pytest.raises(DataError, match="is a link to nothing"):
        resolve(str(tmp_path / "rows.jsonl"))


def test_a_glob_without_a_match_and_a_folder_are_refused(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [])
    with pytest.raises(DataError, match=r"no file matches .*rows\.jsonl"):
        resolve(str(tmp_path / "*.csv"))
    with pytest.raises(DataError, match=r"\*\.jsonl"):
        resolve(str(tmp_path))


def test_a_hub_data_set_needs_its_commit() -> None:
    with pytest.raises(DataError, match="revision: <40 hex digits>"):
        resolve("owner/name")
    assert resolve("owner/name", revision=COMMIT).kind == "hub"
    plain = resolve_sources(DataSettings(train="owner/name", eval="owner/name", revision=COMMIT), "eval")[0]
    assert (plain.revision, plain.split) == (COMMIT, "test")


def test_a_hub_that_cannot_be_reached_is_a_dependency_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DependencyError, match=r"owner/name@012345678901: the hub cannot be reached"):
        read_source(resolve("owner/name", revision=COMMIT), 1000)


@pytest.mark.parametrize("task", TASKS)
def test_an_embedded_task_gives_rows_under_a_name_that_tells_the_split(task: str) -> None:
    settings = DataSettings(train=f"embedded:{task}", eval=f"embedded:{task}")
    train, test = (read_source(resolve_sources(settings, side)[0], 10_000) for side in ("train", "eval"))
    assert train.rows[0].source == f"embedded:{task}/train:1"
    assert test.rows[0].source == f"embedded:{task}/test:1"
    assert not {row.id for row in train.rows} & {row.id for row in test.rows}


def test_the_split_of_an_embedded_task_can_be_named() -> None:
    assert resolve("embedded:records-en/dev").label == "embedded:records-en/dev"
    assert resolve("embedded:records-en", split="dev").label == "embedded:records-en/dev"
    with pytest.raises(DataError, match="Did you mean embedded:records-en"):
        resolve("embedded:record-en")
    with pytest.raises(DataError, match="train, dev, test"):
        resolve("embedded:records-en/validation")


def test_a_source_can_override_format_and_columns(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}])
    settings = DataSettings(
        train=(DataSource(path=path, columns={"prompt": "q", "completion": "a"}),), columns={"prompt": "other"}
    )
    assert read_source(resolve_sources(settings, "train")[0], 1000).rows[0].answer == "y"
