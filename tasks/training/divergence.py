"""Training that has failed although every number is finite: it ends instead of making something worthless."""

from __future__ import annotations

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tasks.foundation.errors import DivergenceError

_SMOOTHING = 0.2
"""Weight of the newest loss in the moving average: the best value is not that of one lucky batch."""


class LossWatch:
    """Sees every logged loss in order. What it knows is a function of them alone, so a resume changes nothing."""

    def __init__(self, factor: float, patience: int) -> None:
        self._factor = factor
        self._patience = patience
        self._smoothed: float | None = None
        self._began = 0.0
        self._best = 0.0
        self._above = 0
        self._dead = 0

    def see(self, loss: float, gradient_norm: float | None = None) -> str:
        """What has gone wrong once it did `patience` times in a row; empty while it has not.

        - The loss is above `factor` times the best of its moving average, and above where it began: below that nothing
          is lost, and close to 0 a loss may well triple.
        - The norm of the gradient is exactly 0 although the loss is not: saturated, the model learns no more.
        """
        if self._smoothed is None:
            self._smoothed = self._began = self._best = loss
        is_above = loss > max(self._factor * self._best, self._began)
        self._above = self._above + 1 if is_above else 0
        self._dead = self._dead + 1 if gradient_norm == 0 and loss > 0 else 0
        self._smoothed += _SMOOTHING * (loss - self._smoothed)
        self._best = min(self._best, self._smoothed)
        if self._above >= self._patience:
            return (
                f"above {self._factor:g} times its best ({self._best:.3g}) and above where it began ({self._began:.3g})"
            )
        return "without any gradient" if self._dead >= self._patience else ""


class StopOnDivergence(TrainerCallback):  # type: ignore[misc]
    """Raises DivergenceError, on all ranks at the same step: they log the same mean."""

    def __init__(self, factor: float, patience: int) -> None:
        self._factor = factor
        self._patience = patience
        self._watch = LossWatch(factor, patience)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._watch = LossWatch(self._factor, self._patience)
        for entry in state.log_history:
            if "loss" in entry:
                self._watch.see(entry["loss"], entry.get("grad_norm"))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        if wrong := self._watch.see(logs["loss"], logs.get("grad_norm")):
            raise DivergenceError(
                f"the loss is {logs['loss']:.3g} at step {state.global_step}, for {self._patience} logged ones in a "
                f"row {wrong}",
                where="training.divergence_factor",
                fix=f"Lower the learning rate ({args.learning_rate:g}), or set it to null to let it go on",
            )
