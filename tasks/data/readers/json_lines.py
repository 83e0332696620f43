"""JSON lines: one object per line; a broken line is one bad row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.data.formats import RowError
from tasks.data.readers._found import BadRow, Found, RawRecord
from tasks.data.readers._open import Line, lines_of, open_data
from tasks.data.readers._strict_json import StrictDecoder, checked_record


def read_json_lines(path: Path, name: str, characters: int) -> Iterator[Found]:
    """One record per line that is not blank."""
    decoder = StrictDecoder()
    with open_data(path, name) as file:
        for line in lines_of(file, name, characters):
            if not line.content.strip():
                continue
            try:
                yield RawRecord(line.number, _record(decoder, line))
            except RowError as error:
                yield BadRow.of(name, line.number, error, line.content[:1000])


def _record(decoder: StrictDecoder, line: Line) -> dict[str, Any]:
    if line.too_long:
        raise RowError("too_long", "the line")
    try:
        text = line.content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", f"byte {error.start + 1}") from error
    value, end = decoder.decode(text)
    if end != len(text):
        raise RowError("invalid_json", f"column {end + 1}: more than one value")
    return checked_record(value, decoder.fault)
