from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tasks.data.rows import make_row
from tasks.data.selection import choose, distinct, in_order, is_held_out, leaked_ids, shares, with_references
from tasks.data.values import Row
from tests.data.worlds import chat


def rows(count: int, prefix: str = "q") -> list[Row]:
    return [make_row(chat(f"{prefix} {i}", f"a {i}"), f"f:{i}") for i in range(count)]


def texts(found: Sequence[Row]) -> list[str]:
    return [row.turns[0].content for row in found]


def test_the_first_of_equal_rows_is_kept_and_every_other_one_is_a_duplicate() -> None:
    first = rows(5)
    again = [row.model_copy(update={"source": "g:1"}) for row in rows(3)]
    kept = distinct([*first, *again, *again], set())
    assert kept == first


def test_added_rows_move_no_row_to_the_other_side() -> None:
    few, many = rows(300), rows(3000)
    sides = {row.id: is_held_out(row, 0.1) for row in few}
    assert {row.id: is_held_out(row, 0.1) for row in many if row.id in sides} == sides
    assert 0.07 < sum(is_held_out(row, 0.1) for row in many) / len(many) < 0.13


def test_rows_that_ask_the_same_stand_on_the_same_side() -> None:
    for number in range(50):
        asked = [make_row(chat(f"q {number}", "a"), ""), make_row(chat(f" q  {number}\n", "b"), "")]
        assert len({is_held_out(row, 0.5) for row in asked}) == 1


def test_a_larger_fraction_only_adds_held_out_rows() -> None:
    held_out = [{row.id for row in rows(500) if is_held_out(row, share)} for share in (0.1, 0.3)]
    assert held_out[0] < held_out[1]


def test_leaks_are_found_by_content_whatever_the_format() -> None:
    evaluation = [make_row(chat("q 1", "a 1"), ""), make_row("q 2 a 2", ""), make_row(chat("q 3 ", "a 3"), "")]
    assert leaked_ids(rows(10), evaluation) == {row.id for row in rows(10)[1:4]}


def test_the_same_prompt_with_another_answer_is_no_leak() -> None:
    assert leaked_ids(rows(3), [make_row(chat("q 1", "something else"), "")]) == set()


def test_the_order_hangs_on_content_and_seed_alone() -> None:
    assert in_order(rows(50), 0) == in_order(reversed(rows(50)), 0)
    assert texts(in_order(rows(50), 0)) != texts(in_order(rows(50), 1)) != texts(rows(50))


def test_a_limit_takes_rows_from_everywhere_and_a_higher_one_keeps_them() -> None:
    some, more = (choose([rows(1000)], [None], limit, seed=0) for limit in (100, 200))
    assert some == more[:100]
    places = [int(text.split()[1]) for text in texts(some)]
    assert 350 < sum(places) / len(places) < 650


def test_without_weights_every_row_is_used() -> None:
    assert len(choose([rows(5), rows(50, "r")], [None, None], None, seed=0)) == 55


def test_weights_hold_the_shares_without_repeating_a_row() -> None:
    chosen = choose([rows(100), rows(1000, "r")], [1.0, 3.0], None, seed=0)
    assert sum(text.startswith("q") for text in texts(chosen)) == 100
    assert len(chosen) == len(set(texts(chosen))) == 400


def test_weighted_sources_are_mixed_in_the_order() -> None:
    chosen = texts(choose([rows(100), rows(100, "r")], [1.0, 1.0], None, seed=0))
    assert 30 < sum(text.startswith("q") for text in chosen[:100]) < 70


@given(
    groups=st.lists(st.tuples(st.integers(0, 500), st.floats(0.01, 100)), min_size=1, max_size=5),
    limit=st.none() | st.integers(1, 400),
)
def test_shares_are_the_largest_that_hold(groups: list[tuple[int, float]], limit: int | None) -> None:
    sizes, weights = [size for size, _ in groups], [weight for _, weight in groups]
    counts = shares(sizes, weights, limit)
    total = sum(counts)
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert all(abs(count - total * weight / sum(weights)) < 1 for count, weight in zip(counts, weights, strict=True))
    more = total + 1
    fits = all(more * weight / sum(weights) <= size * (1 - 1e-9) for size, weight in zip(sizes, weights, strict=True))
    assert total == limit or not fits


def test_references_are_the_own_answer_and_then_all_others_of_the_whole_source() -> None:
    every = [make_row(chat("q", answer), "") for answer in ("a", "b", "c")] + [make_row(chat("other", "d"), "")]
    found = with_references(every[1:2], every)
    assert found[0].references[0] == "b"
    assert sorted(found[0].references) == ["a", "b", "c"]
    assert with_references(every, every) == with_references(every, every[::-1])


def test_raw_texts_are_no_references_of_one_another() -> None:
    every = [make_row("one", ""), make_row("two", "")]
    assert [row.references for row in with_references(every, every)] == [("one",), ("two",)]
