"""One file of `benchmarks/suite` is one benchmark: a public class below `Benchmark` is all there is to add."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from benchmarks.figures import Figure
from benchmarks.findings import Finding
from tasks.foundation.discovery import discover
from tasks.foundation.values import Value


class SkippedError(Exception):
    """A benchmark cannot run here; the message says why."""


class Conditions(Value):
    """How a benchmark is run."""

    repeats: int
    quick: bool
    """Smaller sizes, to see that it works: its numbers say nothing."""
    scratch: Path
    """An empty folder that is deleted afterwards; what an earlier start left in it where the benchmark goes on."""
    seed: int = 0
    """Of what is chosen at random."""

    def size(self, full: int, quick: int) -> int:
        """A number that depends on `quick`."""
        return quick if self.quick else full


class Benchmark(ABC):
    """Measures tuneline and its baseline in one run, taking turns; or says in words what became of each case."""

    name: ClassVar[str]
    covers: ClassVar[str]
    """The goals that it measures, for example `G1`."""
    question: ClassVar[str]
    goes_on: ClassVar[bool] = False
    """Whether what an earlier start left may be adopted: it measures results, not the time that it takes itself."""

    @abstractmethod
    def measure(self, conditions: Conditions) -> tuple[Figure | Finding, ...]:
        """Run it.

        Raises:
            SkippedError: something that it needs is not here.
        """


def all_benchmarks() -> dict[str, type[Benchmark]]:
    """Name -> class, sorted by name."""
    found = discover("benchmarks.suite", Benchmark)  # type: ignore[type-abstract]
    return {benchmark.name: benchmark for benchmark in sorted(found, key=lambda kind: kind.name)}


def taking_turns(repeats: int, sides: Mapping[str, Callable[[int], float]]) -> dict[str, tuple[float, ...]]:
    """Every side once per round, each round in the opposite order of the one before; side -> its measurements.

    A side is called with the number of the round.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats):
        names = list(sides)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            measured[name].append(sides[name](number))
    return {name: tuple(values) for name, values in measured.items()}
