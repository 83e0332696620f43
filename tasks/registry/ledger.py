"""A list of texts on the tracking server to which anybody may append and which nobody can change.

MLflow has no compare-and-swap, but it has one thing that can be written once only: a parameter of a run. Its database
keeps (run, key) unique and refuses another value. So entry 7 is the parameter `entry.000007`, and of all that want to
write it, on whatever machine, exactly one succeeds: the order of entries is the same for everybody.

The run that holds a model's list is found in the same way. An experiment's name is unique and its tags are written
with it, so whoever makes the experiment `tuneline promotions: <model>` first has named the run for all.
"""

from __future__ import annotations

import re

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.foundation.errors import ConfigError, IntegrityError, TunelineError
from tasks.registry.server import Registry

RUNS = "tuneline promotions"
"""The experiment that holds the runs, one per model, where people look at them."""
MODEL_TAG = "tuneline.promotions_of"
_RUN_TAG = "tuneline.promotions_run"
_NOTE = "mlflow.note.content"
_KEY = "entry.{:06d}"
_IS_ENTRY = re.compile(r"entry\.(\d{6})")
MAX_CHARACTERS = 5900
"""Of an entry: MLflow's databases keep 6000, and would cut what is longer without a word."""


class Ledger:
    """The list of one registered model."""

    def __init__(self, registry: Registry, model: str) -> None:
        self._registry = registry
        self._client = registry.client
        self._model = model
        self._found = ""

    def read(self) -> list[str]:
        """All entries, the oldest first; none where nothing was ever appended.

        Raises:
            IntegrityError: an entry between others is gone, or the run is.
        """
        run_id = self._run_id()
        if not run_id:
            return []
        with self._registry.calling(absent=_lost(self._model, "its run is gone")):
            run: Run = self._client.get_run(run_id)
        if run.data.tags.get(MODEL_TAG) != self._model or run.info.lifecycle_stage != "active":
            raise _lost(self._model, f"run {run_id} is deleted or belongs to something else")
        numbered = {int(match[1]): text for key, text in run.data.params.items() if (match := _IS_ENTRY.fullmatch(key))}
        if sorted(numbered) != list(range(1, len(numbered) + 1)):
            raise _lost(self._model, "an entry between others is missing")
        return [numbered[number] for number in sorted(numbered)]

    def append(self, number: int, text: str) -> bool:
        """Write entry `number`; False where somebody else has written it.

        An answer that is lost is asked for again: the entry stands or it does not.

        Raises:
            ConfigError: the text is longer than MLflow keeps.
            DependencyError: the server does not answer.
        """
        if len(text) > MAX_CHARACTERS:
            what = f"an entry of {len(text)} characters does not fit into the promotion log"
            raise ConfigError(
                what, where="--reason", allowed=f"{MAX_CHARACTERS} characters in all", fix="Say it shorter"
            )
        run_id = self._run_id() or self._make()
        with self._registry.calling():
            try:
                self._client.log_param(run_id, _KEY.format(number), text, synchronous=True)
            except MlflowException as error:
                standing = self._entry(run_id, number)
                if standing is None:
                    raise error from None
                return standing == text
        return self._entry(run_id, number) == text

    def _entry(self, run_id: str, number: int) -> str | None:
        found: str | None = self._client.get_run(run_id).data.params.get(_KEY.format(number))
        return found

    def _run_id(self) -> str:
        """The run that all agree on; empty where there is none yet."""
        if not self._found:
            with self._registry.calling():
                pointer = self._client.get_experiment_by_name(self._pointer)
            if pointer is not None and pointer.lifecycle_stage != "active":
                raise _lost(self._model, f"experiment {self._pointer!r} was deleted")
            self._found = pointer.tags.get(_RUN_TAG, "") if pointer else ""
            if pointer is not None and not self._found:
                raise _lost(self._model, f"experiment {self._pointer!r} names no run")
        return self._found

    @property
    def _pointer(self) -> str:
        return f"{RUNS}: {self._model}"

    def _make(self) -> str:
        """A run for the list, unless somebody else names theirs first."""
        note = (
            f"Every promotion and rollback of {self._model}, one parameter each, in order. `tuneline history` reads it."
        )
        with self._registry.calling():
            run = self._client.create_run(
                self._experiment(), run_name=self._model, tags={MODEL_TAG: self._model, _NOTE: note}
            )
            self._client.set_terminated(run.info.run_id, "FINISHED")
            tags = {_RUN_TAG: run.info.run_id, _NOTE: f"Names the run that holds the promotion log of {self._model}."}
            try:
                self._client.create_experiment(self._pointer, tags=tags)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                self._client.delete_run(run.info.run_id)
        return self._run_id()

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(RUNS)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(RUNS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(self._client.get_experiment_by_name(RUNS).experiment_id)


def _lost(model: str, what: str) -> TunelineError:
    fix = "Restore it in MLflow (deleted runs and experiments can be), or from a backup of its database"
    return IntegrityError(f"the promotion log of {model} is damaged: {what}", where=RUNS, fix=fix)
