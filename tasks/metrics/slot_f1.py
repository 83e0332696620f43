"""Slot F1: which values of the prompt's record does the generated text say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from tasks.foundation.errors import DataError
from tasks.metrics._base import Example, Measurement, Metric, Needs
from tasks.metrics._texts import words

_SLOT = re.compile(r"([^\[\],，;；\n]+)\[([^\[\]]*)\]")

Spoken = tuple[str, ...]
"""A value as it is said: its words, see `words`."""
Record = dict[str, frozenset[Spoken]]


class Inventory:
    """Values that a text may say, ready to be looked up."""

    def __init__(self, values: Iterable[Spoken]) -> None:
        self._values = frozenset(values)
        self._lengths = sorted({len(value) for value in self._values}, reverse=True)

    def said_in(self, text: str) -> frozenset[Spoken]:
        """The values that the text says; read from the left, the longest first, and nothing twice."""
        said, spoken, place = set(), tuple(words(text)), 0
        while place < len(spoken):
            pieces = (spoken[place : place + length] for length in self._lengths)
            value = next((piece for piece in pieces if piece in self._values), None)
            said.update([value] if value else [])
            place += len(value) if value else 1
        return frozenset(said)


class _Counts(NamedTuple):
    """Of one example, or summed: what recall and precision are made of."""

    expected: int
    recalled: int
    said: int
    right: int


class SlotF1(Metric):
    """`slot_f1` (with `slot_precision`, `slot_recall`), from 0 to 1, micro-averaged over the prompts.

    A prompt holds a record: `name[The Vaults], eatType[pub], familyFriendly[yes]`, or `name[ Wild Table], …`, or
    `名字[红叶花园]，…`. Text before the first and after the last slot is ignored.

    *Saying* a value: its words stand in the text one after the other. Words are lower-cased runs of letters and digits,
    and single Chinese or Japanese characters: case, punctuation and white space do not matter, `bar` is not in `barn`,
    and 泰国 is in 吃泰国菜. Values are looked up together: the text is read once from the left, where several values
    begin the longest wins, and what it covers is not read again (`Rice` is not said by `The Rice Boat`).

    The *inventory* holds, of every key, the values that are said by a reference of at least one prompt with that value.
    Values that never are (`yes` and `no` of a family slot, told as `for adults only`) cannot be looked up and count
    nowhere. A value that stands under two keys (`high`) is one value: a text does not say for which key it is meant.

    - recall: of the record's values that one of the prompt's references says, the share that the prediction says;
    - precision: of the inventory's values that the prediction says, the share that belongs to the record, or is said
      by one of the prompt's references (`no` in `There is no …`);
    - F1 = 2 P R / (P + R), and 0 where P + R = 0. P = 0 when the predictions say no value at all.

    Per example: the same on one prompt alone; 1 when there is nothing to say and nothing was said.
    """

    name: ClassVar[str] = "slot_f1"
    needs: ClassVar[Needs] = "generation"
    higher_is_better: ClassVar[bool] = True
    headline: ClassVar[str] = "slot_f1"

    def measure(self, examples: Sequence[Example]) -> Measurement:
        """Count over all prompts.

        Raises:
            DataError: no prompt holds a record, or no reference says a value of its record.
        """
        records = [record_of(example.prompt) for example in examples]
        if not any(records):
            raise DataError(
                "slot_f1: no prompt holds a record",
                where="evaluation.metrics",
                allowed="prompts such as name[The Vaults], food[Thai]",
                fix="Leave slot_f1 out for this data",
            )
        inventory = _inventory(records, examples)
        counts = [_count(*pair, inventory) for pair in zip(records, examples, strict=True)]
        total = _Counts(*map(sum, zip(*counts, strict=True)))
        if not total.expected:
            raise DataError("slot_f1: no reference says a value of its record", where="evaluation.metrics")
        precision, recall = total.right / max(total.said, 1), total.recalled / total.expected
        return Measurement(
            values={"slot_f1": _f1(total), "slot_precision": precision, "slot_recall": recall},
            per_example=tuple(map(_f1, counts)),
        )


def record_of(prompt: str) -> Record:
    """Key -> values as they are said; empty when the prompt holds no `key[value]`."""
    record: Record = {}
    for key, text in _SLOT.findall(prompt):
        if value := tuple(words(text)):
            name = key.strip()
            record[name] = record.get(name, frozenset()) | {value}
    return record


def _values(record: Record) -> frozenset[Spoken]:
    return frozenset().union(*record.values())


def _inventory(records: Sequence[Record], examples: Sequence[Example]) -> Inventory:
    """The values of every key that some reference says literally."""
    said: set[Spoken] = set()
    for record, example in zip(records, examples, strict=True):
        own = Inventory(_values(record))
        said.update(*map(own.said_in, example.references))
    return Inventory(said)


def _count(record: Record, example: Example, inventory: Inventory) -> _Counts:
    own = _values(record)
    told = frozenset().union(*map(inventory.said_in, example.references))
    said = inventory.said_in(example.prediction)
    expected = own & told
    return _Counts(len(expected), len(expected & said), len(said), len(said & (own | told)))


def _f1(counts: _Counts) -> float:
    if not counts.expected and not counts.said:
        return 1.0
    precision, recall = counts.right / max(counts.said, 1), counts.recalled / max(counts.expected, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
