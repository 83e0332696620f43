from __future__ import annotations

from pathlib import Path

import pytest

from tasks.evaluation.probe import probe_digest, probe_windows, read_probe
from tasks.foundation.errors import DataError
from tasks.models import BaseModel
from tasks.models.loading import load_tokenizer
from tests.evaluation.worlds import STORIES, base_in, needs_stories


def test_windows_cover_the_text_once_up_to_the_limit(tiny: BaseModel) -> None:
    windows = probe_windows("abcdefghij", load_tokenizer(tiny), window=4, limit=9)
    assert [len(row.input_ids) for row in windows] == [4, 4]
    assert [row.labels[0] for row in windows] == [-100, -100]
    tokenizer = load_tokenizer(tiny)
    assert tokenizer.decode([token for row in windows for token in row.input_ids]) == "abcdefgh"


@needs_stories
def test_every_window_begins_with_the_start_token_where_the_tokenizer_sets_one() -> None:
    tokenizer = load_tokenizer(base_in(STORIES))
    windows = probe_windows("Once upon a time there was a dog.", tokenizer, window=6, limit=10)
    assert [row.input_ids[0] for row in windows] == [tokenizer.bos_token_id] * 2
    assert [len(row.input_ids) for row in windows] == [6, 6]
    assert all(row.labels == [-100, *row.input_ids[1:]] for row in windows)


def test_a_probe_of_one_token_is_refused(tiny: BaseModel) -> None:
    with pytest.raises(DataError, match="the probe text has 1 tokens"):
        probe_windows("a", load_tokenizer(tiny), window=8, limit=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"ab\xff", "not UTF-8 at byte 2"), (b" \n", "is empty")],
)
def test_a_probe_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "probe.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"evaluation\.probe: .*{message}"):
        read_probe(str(path))


def test_the_embedded_probe_needs_no_file() -> None:
    assert len(read_probe("embedded:probe").splitlines()) > 10


def test_the_digest_follows_the_text_not_the_name(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one")
    second.write_text("one")
    assert probe_digest(str(first)) == probe_digest(str(second)) != probe_digest(None)
    second.write_text("two")
    assert probe_digest(str(first)) != probe_digest(str(second))
