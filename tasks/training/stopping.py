"""Reasons to end before the last step: a signal, or a loss that stopped falling."""

from __future__ import annotations

import signal
from types import FrameType

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """SIGTERM ends training with a checkpoint at the end of the step. All ranks agree on which, whoever got the signal.

    Made when training is about to begin: before that the worker ends at once. Once training has ended, what is left
    (the last loss, the weights) goes on: it is short, or the grace ends it, and the last checkpoint stands.
    """

    def __init__(self) -> None:
        self.requested = False
        self.stopped = False
        signal.signal(signal.SIGTERM, self._request)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if self._agreed(args.device) and state.global_step < state.max_steps:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def _agreed(self, device: torch.device) -> bool:
        if not distributed.is_initialized():
            return self.requested
        flag = torch.tensor(int(self.requested), device=device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Stops after `patience` evaluations without a lower loss, read from the history: a resume changes nothing."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if stalled(state, self._patience):
            control.should_training_stop = True
            control.should_save = True


def stalled(state: TrainerState, patience: int) -> bool:
    """True when the last `patience` evaluations brought no lower loss."""
    losses = [loss for _, loss in evaluations(state)]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def evaluations(state: TrainerState) -> list[tuple[int, float]]:
    """(step, eval loss) of all evaluations so far, in order."""
    return [(int(entry["step"]), float(entry["eval_loss"])) for entry in state.log_history if "eval_loss" in entry]


def best_step(state: TrainerState) -> int | None:
    """Step of the evaluation with the lowest loss; the earliest of equals."""
    found = evaluations(state)
    return min(found, key=lambda pair: (pair[1], pair[0]))[0] if found else None
