"""Rows: what makes two of them equal, and the files in which they lie."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tasks.data.formats import Content, RowError
from tasks.data.values import EvalRow, Row
from tasks.foundation.digests import canonical_json, digest_text, digest_value

R = TypeVar("R", bound=Row)


def make_row(content: Content, source: str) -> Row:
    """A row with its id."""
    if isinstance(content, str):
        return Row(id=row_id(content), text=content, source=source)
    return Row(id=row_id(content), turns=content, source=source)


def row_id(content: Content) -> str:
    """sha256 of roles and texts: equal content has one id, whatever the file and format it came from."""
    if isinstance(content, str):
        return digest_value({"text": content})
    return digest_value([[turn.role, turn.content] for turn in content])


def check_length(row: Row, characters: int) -> None:
    """Refuse a row of more characters than that.

    Raises:
        RowError: `too_long`.
    """
    length = len(row.text or "") + sum(len(turn.content) for turn in row.turns)
    if length > characters:
        raise RowError("too_long", f"{length} characters, {characters} are allowed")


def prompt_key(row: Row) -> str:
    """Equal for rows that ask the same, up to white space and Unicode composition; of raw text the text itself."""
    asked = [turn.content for turn in row.prompt] or [row.answer]
    return digest_text("\0".join(map(_normalised, asked)))


def content_key(row: Row) -> str:
    """Equal for rows that say the same, however roles and white space divide it: raw text equals its conversation."""
    said = [turn.content for turn in row.turns] or [row.answer]
    return digest_text(_normalised(" ".join(said)))


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """One canonical JSON object per line."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(canonical_json(row) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """The rows of train.jsonl, in order."""
    return _read(path, Row)


def read_eval_rows(path: Path) -> list[EvalRow]:
    """The rows of eval.jsonl, in order."""
    return _read(path, EvalRow)


def _read(path: Path, kind: type[R]) -> list[R]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [kind.model_validate_json(line) for line in file]
