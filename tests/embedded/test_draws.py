"""Seeded draws."""

from tasks.embedded.draws import Draws


def test_a_name_decides_the_stream_on_every_python() -> None:
    draws = Draws("a stream")
    assert [draws.below(1000) for _ in range(5)] == [695, 201, 412, 945, 159]
    assert Draws("another").below(10**9) != Draws("a stream").below(10**9)


def test_shuffling_keeps_every_thing_and_reaches_every_order() -> None:
    draws = Draws("orders")
    orders = {tuple(draws.shuffled("abc")) for _ in range(200)}
    assert len(orders) == 6
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_a_share_is_a_share() -> None:
    draws = Draws("shares")
    assert 0.25 < sum(draws.chance(0.3) for _ in range(2000)) / 2000 < 0.35
