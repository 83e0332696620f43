"""The control of rows 46 to 50: the same faults, done to a promotion by MLflow's own calls."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.base import Benchmark, Conditions
from benchmarks.control import promotions
from benchmarks.findings import Finding


class Promotion(Benchmark):
    """Each in a registry of its own, over MLflow's database store."""

    name: ClassVar[str] = "promotion"
    covers: ClassVar[str] = "control"
    question: ClassVar[str] = "What does the fault list do to a promotion by MLflow's own calls?"

    def measure(self, conditions: Conditions) -> tuple[Finding, ...]:
        return tuple(found for row in promotions.ROWS for found in row(conditions.scratch / "shops"))
