"""What Prefect's page calls the runs of a task."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

from prefect import Task

P = ParamSpec("P")
R = TypeVar("R")


def named(step: Task[P, R], name: str) -> Task[P, R]:
    """The same task, whose run says what it is about: `<name>-1a2` while it waits for its inputs, then the name alone.

    Prefect names a run anew when its inputs are there; until then it has the name of its task and three digits.
    """
    literal = name.replace("{", "{{").replace("}", "}}")  # Prefect fills it in like a format string
    return step.with_options(name=name, task_run_name=literal)
