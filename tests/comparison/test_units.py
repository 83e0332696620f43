from __future__ import annotations

import pytest

from tasks.comparison.units import decimals_of, fixed, short_bytes, short_count, short_seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1280, "1.28k"), (260_032, "260k"), (999_999, "1M"), (7.24e9, "7.24B")],
)
def test_counts_are_short(value: float | None, text: str) -> None:
    assert short_count(value) == text


@pytest.mark.parametrize(("value", "text"), [(12, "12B"), (1_044_992, "1.04MB"), (14_000_000_000, "14GB")])
def test_bytes_have_decimal_units(value: int, text: str) -> None:
    assert short_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04, "0.0s"), (7.21, "7.2s"), (59.97, "1m00s"), (65.2, "1m05s"), (3599.6, "1h00m"), (90_000, "25h00m")],
)
def test_seconds_turn_into_minutes_and_hours(value: float, text: str) -> None:
    assert short_seconds(value) == text


def test_one_column_has_one_number_of_decimals() -> None:
    assert [decimals_of([value, float("nan"), None]) for value in (1.1, 31.2, 412.0, 5000.0)] == [3, 2, 1, 0]
    assert decimals_of([]) == 3


def test_a_difference_shows_its_sign_and_nan_stays_visible() -> None:
    assert [fixed(1.5, 2, sign=True), fixed(-1.5, 2, sign=True), fixed(None, 2)] == ["+1.50", "-1.50", "-"]
    assert fixed(float("nan"), 2) == "nan"
