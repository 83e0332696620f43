"""A loss that rises and stays up although it is finite: training ends instead of making something worthless."""

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
        self.best = 0.0
        """Lowest value of the moving average so far."""
        self._above = 0

    def see(self, loss: float) -> bool:
        """True once `patience` losses in a row were above `factor` times the best, and above where it began.

        Below where it began nothing has been lost: close to 0 a loss may well triple.
        """
        if self._smoothed is None:
            self._smoothed = self._began = self.best = loss
        is_above = loss > max(self._factor * self.best, self._began)
        self._above = self._above + 1 if is_above else 0
        self._smoothed += _SMOOTHING * (loss - self._smoothed)
        self.best = min(self.best, self._smoothed)
        return self._above >= self._patience


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
                self._watch.see(entry["loss"])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if logs and "loss" in logs and self._watch.see(logs["loss"]):
            raise DivergenceError(
                f"the loss is {logs['loss']:.3g} at step {state.global_step}: {self._patience} logged ones in a row "
                f"were above where it began and above {self._factor:g} times its best ({self._watch.best:.3g})",
                where="training.divergence_factor",
                fix=f"Lower the learning rate ({args.learning_rate:g}), or set it to null to let it go on",
            )
