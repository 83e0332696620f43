"""Numbers for people: short, with their unit, never wider than six characters."""

from __future__ import annotations

import math
from collections.abc import Iterable

NOTHING = "-"


def short_count(value: float | None) -> str:
    """1234 -> `1.23k`, 260032 -> `260k`."""
    return NOTHING if value is None else _scaled(value, ("", "k", "M", "B", "T"))


def short_bytes(value: float | None) -> str:
    """Decimal units: 1044992 -> `1.04MB`."""
    return NOTHING if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def short_seconds(value: float | None) -> str:
    """7.21 -> `7.2s`, 65 -> `1m05s`, 3720 -> `1h02m`."""
    if value is None:
        return NOTHING
    if value < 59.95:
        return f"{value:.1f}s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{seconds:02}s"


def decimals_of(values: Iterable[float | None]) -> int:
    """Decimals for a whole column, so that its numbers line up: three below 10, two below 100, …"""
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    return 3 if largest < 10 else 2 if largest < 100 else 1 if largest < 1000 else 0


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """A number with that many decimals; `sign` shows the plus of a difference."""
    if value is None:
        return NOTHING
    return f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    step = 0
    while abs(value) >= 999.5 and step < len(units) - 1:
        value /= 1000
        step += 1
    whole = f"{value:.0f}" if step == 0 else f"{value:.3g}"
    return f"{whole}{units[step]}"
