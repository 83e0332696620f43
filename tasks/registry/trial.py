"""A version tried out: loaded as production loads it, asked its input example, timed and weighed."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

from tasks.foundation.errors import IntegrityError, TunelineError, shortage
from tasks.foundation.values import Value
from tasks.tracking import redact
from tasks.tracking.environment import set_mlflow_defaults

REPETITIONS = 5
"""The first one warms up and is left out of the median."""


class Trial(Value):
    """What the version did."""

    answer: str
    same_answer: bool | None
    """As the evaluation saw; None where that asked for no answer, so that there is nothing to compare with."""
    load_seconds: float
    answer_seconds: float
    """Median of the repetitions."""
    peak_memory_bytes: int
    """Of the accelerator where there is one, else resident, Python and its libraries included."""
    device: str


def try_out(folder: Path, expected: str | None) -> Trial:
    """Load the files of a version and let it answer its own input example. Call it in a process of its own: the peak
    of memory is that of the process.

    Args:
        folder: all files of the version, verified.
        expected: the answer that the evaluation saw; None where it asked for none.

    Raises:
        IntegrityError: it cannot be loaded or does not answer.
        ResourceError: too little memory.
    """
    set_mlflow_defaults()
    started = time.monotonic()
    try:
        model, example, params = _load(folder)
        loaded = time.monotonic()
        answers, seconds = _ask(model, example, params)
    except TunelineError:
        raise
    except Exception as error:  # whatever keeps it from serving; a lack of memory says nothing about the version
        if (short := shortage(error)) is not None:
            raise short from error
        first_line = redact(str(error)).partition("\n")[0]
        what = f"the version cannot serve: {type(error).__name__}: {first_line}"
        raise IntegrityError(
            what, where=str(folder), fix="Register it again, with the libraries that are here"
        ) from error
    return Trial(
        answer=answers[0],
        same_answer=None if expected is None else all(answer == expected for answer in answers),
        load_seconds=loaded - started,
        answer_seconds=median(seconds[1:]),
        peak_memory_bytes=_peak_bytes(),
        device=_device(),
    )


def _load(folder: Path) -> tuple[Any, Any, dict[str, Any]]:
    import mlflow
    from mlflow.models import Model

    description = Model.load(str(folder))
    example, params = description.load_input_example(str(folder)), description.load_input_example_params(str(folder))
    return mlflow.pyfunc.load_model(str(folder), suppress_warnings=True), example, params or {}


def _ask(model: Any, example: Any, params: dict[str, Any]) -> tuple[list[str], list[float]]:
    from tasks.evaluation.loaded import evaluating
    from tasks.models.loading import pick_device

    answers, seconds = [], []
    with evaluating(pick_device()):
        for _ in range(REPETITIONS):
            started = time.monotonic()
            answers.append(str(model.predict(example, params=params)[0]))
            seconds.append(time.monotonic() - started)
    return answers, seconds


def _peak_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
