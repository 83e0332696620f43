"""JSON with one meaning: no repeated keys, no NaN, no depth that breaks a parser."""

from __future__ import annotations

import json
from typing import Any

from tasks.data.formats import RowError


class StrictDecoder:
    """Decodes one value after another and remembers what was wrong in the last one.

    The faults are collected and not raised at once, so that the place behind a faulty element is known.
    """

    def __init__(self) -> None:
        self._faults: list[RowError] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)

    def decode(self, text: str, start: int = 0) -> tuple[Any, int]:
        """The value that begins at `start`, and the index behind it. `fault` tells whether it may be used.

        Raises:
            RowError: there is no JSON value (`invalid_json`, `too_deep`).
        """
        self._faults.clear()
        try:
            return self._decoder.raw_decode(text, start)
        except RecursionError as error:
            raise RowError("too_deep", "nested too deeply") from error
        except json.JSONDecodeError as error:
            raise RowError("invalid_json", f"column {error.colno}: {error.msg}") from error
        except ValueError as error:
            raise RowError("invalid_json", "a number of too many digits") from error

    @property
    def fault(self) -> RowError | None:
        """What makes the last value unusable although it could be decoded."""
        return self._faults[0] if self._faults else None

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            self._faults.append(RowError("duplicate_key", "a key stands twice"))
        return made

    def _constant(self, name: str) -> None:
        self._faults.append(RowError("non_finite_number", name))


def checked_record(value: Any, fault: RowError | None) -> dict[str, Any]:
    """The value as a record.

    Raises:
        RowError: it had a fault or is no object.
    """
    if fault is not None:
        raise fault
    if not isinstance(value, dict):
        raise RowError("not_an_object", f"it is {type(value).__name__}")
    return value
