from __future__ import annotations

import pytest

from tasks.foundation.errors import DataError
from tasks.metrics._texts import words
from tasks.metrics.slot_f1 import Inventory, SlotF1, record_of
from tests.metrics.worlds import said

VAULTS = "name[The Vaults], food[Thai], family[yes]"
AROMI = "name[ Aromi], food[ Chinese], area[ city centre] =>"
ABOUT_VAULTS, ABOUT_AROMI = "The Vaults has Thai food and likes children.", "Aromi, Chinese, in the city centre."


def test_a_record_is_read_from_both_ways_to_write_one() -> None:
    assert record_of(AROMI) == {"name": {("aromi",)}, "food": {("chinese",)}, "area": {("city", "centre")}}
    assert record_of("名字[红叶]，菜[ 泰国]") == {"名字": {("红", "叶")}, "菜": {("泰", "国")}}
    assert record_of("no record here") == {}


def test_recall_and_precision_by_hand() -> None:
    measured = SlotF1().measure(
        [
            said("The Vaults serves Chinese food.", ABOUT_VAULTS, prompt=VAULTS),
            said("Aromi is in the city centre.", ABOUT_AROMI, prompt=AROMI),
        ]
    )
    # expected: the vaults, thai | aromi, chinese, city centre. said: the vaults, chinese | aromi, city centre.
    recall, precision = 3 / 5, 3 / 4
    assert measured.values["slot_recall"] == pytest.approx(recall)
    assert measured.values["slot_precision"] == pytest.approx(precision)
    assert measured.values["slot_f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert measured.per_example == pytest.approx([0.5, 2 * 1 * (2 / 3) / (1 + 2 / 3)])


def test_a_value_that_no_reference_says_is_neither_expected_nor_looked_up() -> None:
    perfect = said("The Vaults, Thai. yes", ABOUT_VAULTS, prompt=VAULTS)
    assert SlotF1().measure([perfect]).values == {"slot_f1": 1.0, "slot_precision": 1.0, "slot_recall": 1.0}


def test_a_word_that_the_reference_says_too_is_no_wrong_value() -> None:
    other = said("No kids.", "No kids.", prompt="family[no]")
    about = said("Thai, no tables.", "There is no table left. Thai.", prompt="food[Thai], family[yes]")
    assert SlotF1().measure([other, about]).values["slot_precision"] == 1.0


def said_of(text: str, *values: str) -> set[str]:
    known = {tuple(words(value)): value for value in values}
    return {known[value] for value in Inventory(known).said_in(text)}


def test_the_longest_value_wins_and_is_not_read_twice() -> None:
    values = ("Rice", "The Rice", "The Rice Boat", "Boat")
    assert said_of("At the Rice Boat", *values) == {"The Rice Boat"}
    assert said_of("the rice in a boat", *values) == {"The Rice", "Boat"}


def test_a_value_is_whole_words_and_in_chinese_characters_in_a_row() -> None:
    values = ("bar", "泰国", "Aromi")
    assert said_of("barn, sandbar, 国泰", *values) == set()
    assert said_of("在Aromi吃泰国菜", *values) == {"Aromi", "泰国"}


def test_case_line_breaks_and_punctuation_do_not_hide_a_value() -> None:
    values = ("city centre", "cheap", "£20-25")
    assert said_of("Cheap (£20-£25), in the City\n centre", *values) == set(values)


def test_saying_nothing_where_much_is_expected_scores_zero() -> None:
    measured = SlotF1().measure([said("Hello.", ABOUT_VAULTS, prompt=VAULTS)])
    assert measured.values == {"slot_f1": 0.0, "slot_precision": 0.0, "slot_recall": 0.0}
    assert measured.per_example == (0.0,)


def test_prompts_without_records_are_refused() -> None:
    with pytest.raises(DataError, match="no prompt holds a record"):
        SlotF1().measure([said("a", "b", prompt="Tell me a story")])


def test_references_that_say_nothing_of_their_records_are_refused() -> None:
    with pytest.raises(DataError, match="no reference says a value"):
        SlotF1().measure([said("a", "b", prompt="name[X]")])
