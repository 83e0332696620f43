"""G13: what recording every step costs, against the Trainer's own MLflow callback."""

from __future__ import annotations

from typing import ClassVar

from benchmarks.base import Benchmark, Conditions, taking_turns
from benchmarks.figures import Figure, Goal
from benchmarks.running import measured_part

_AGAINST = 'the Trainer\'s report_to="mlflow" with a SQLite store'


class Tracking(Benchmark):
    """Loss, gradient norm and rate of each step, 20 ms apart. What waits is the training; what is spent, on either
    side, is CPU that a training on the same cores lacks."""

    name: ClassVar[str] = "tracking"
    covers: ClassVar[str] = "G13"
    question: ClassVar[str] = "What does tracking cost per step?"

    def measure(self, conditions: Conditions) -> tuple[Figure, ...]:
        steps = conditions.size(500, 50)
        spent: dict[str, list[float]] = {"tuneline": [], "mlflow": []}

        def side(name: str, round_: int) -> float:
            folder = conditions.scratch / f"{name}-{round_}"
            folder.mkdir()
            found = measured_part("track_steps", folder, str(folder), str(steps), name)
            spent[name].append(found["spent_ms"])
            return float(found["waiting_ms"])

        sides = {"tuneline": lambda at: side("tuneline", at), "mlflow": lambda at: side("mlflow", at)}
        waits = taking_turns(conditions.repeats, sides)
        both = {name: tuple(values) for name, values in spent.items()}
        return (
            _figure("training waits", waits, Goal(at_most=0.2, of_value=True)),
            _figure("CPU spent until it is in the store", both, None),
        )


def _figure(name: str, found: dict[str, tuple[float, ...]], goal: Goal | None) -> Figure:
    return Figure(name=name, unit="ms", ours=found["tuneline"], theirs=found["mlflow"], against=_AGAINST, goal=goal)
