import gzip
from pathlib import Path

import pytest

from tasks.data import peek
from tasks.foundation.errors import DataError
from tests.data.worlds import pairs, write_jsonl


def test_a_file_is_described_by_its_first_rows(tmp_path: Path) -> None:
    rows = [{"question": f"q {i}", "answer": "x" * 999} for i in range(5)]
    found = peek(Path(write_jsonl(tmp_path / "a.jsonl", [*rows, 3])))
    assert (found.format, found.mapping) == ("prompt_completion", {"prompt": "question", "completion": "answer"})
    assert found.columns == ("question", "answer")
    assert [row["question"] for row in found.rows] == ["q 0", "q 1", "q 2"]
    assert len(found.rows[0]["answer"]) == 200
    assert found.bad == (f"{tmp_path}/a.jsonl:6: not_an_object (it is int)",)
    assert found.estimated_rows == 6


def test_columns_that_fit_no_format_are_a_problem_and_no_error(tmp_path: Path) -> None:
    found = peek(Path(write_jsonl(tmp_path / "a.jsonl", [{"mr": "a", "ref": "b"}])))
    assert found.format is None
    assert "data.columns=" in found.problem


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_the_number_of_rows_is_estimated_without_reading_all(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "a.jsonl":
        write_jsonl(path, pairs(5000, start=10_000))
    else:
        path.write_text("p,c\n" + "a,b\n" * 5000)
    assert 4800 < peek(path).estimated_rows < 5200
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert peek(packed).estimated_rows == peek(path).estimated_rows


def test_a_file_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        peek(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="It is empty, or a header alone"):
        peek(tmp_path / "a.csv")
    with pytest.raises(DataError, match="this is a folder"):
        peek(tmp_path)
