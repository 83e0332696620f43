"""From the winner to what registration asks for."""

from __future__ import annotations

import pytest

from tasks.data.rows import prompt_key
from tasks.data.settings import DataSettings
from tasks.data.values import EvalRow, Turn
from tasks.evaluation.values import Prediction
from tasks.foundation.errors import DependencyError
from tasks.records import CellOutcome
from tasks.records.winner import Registration, register_request
from tasks.registry.settings import RegistrySettings
from tasks.tracking import TrackingSettings
from tests.records.test_opening import SHARED
from tests.records.worlds import EARLIER, LORA, World

ROW = EvalRow(
    id="1" * 64,
    turns=(Turn(role="user", content="name[Aromi]"), Turn(role="assistant", content="Aromi is a pub.")),
)


def registration_of(world: World, run_id: str) -> Registration:
    trained = world.trained(world.cell(LORA))
    evaluated = world.evaluated()
    answer = Prediction(
        id=prompt_key(ROW), prompt="name[Aromi]", references=("Aromi is a pub.",), prediction="Aromi.", rows=()
    )
    (evaluated.artifact.path / "predictions.jsonl").write_text(answer.model_dump_json() + "\n")
    prepared = world.prepared()
    (prepared.artifact.path / "eval.jsonl").write_text(ROW.model_dump_json() + "\n")
    winner = CellOutcome(
        cell=trained.cell,
        run=world.run(),
        run_id=run_id,
        trained=trained,
        merged=world.merged(trained),
        evaluated=evaluated,
    )
    return Registration(
        name="stories",
        settings=RegistrySettings(model="e2e"),
        tracking=TrackingSettings(),
        winner=winner,
        prepared=prepared,
        data=DataSettings(train="a.csv"),
        max_new_tokens=96,
        context=SHARED,
        metric="loss",
    )


def test_the_request_leads_back_to_run_data_cell_and_code_and_holds_a_question(world: World) -> None:
    request = register_request(registration_of(world, "run7"), world.folder / "report")

    assert (request.model_name, request.alias, request.run_id) == ("e2e", "challenger", "run7")
    assert (request.data_digest, request.rows_digest, request.fingerprint) == ("e" * 64, "r" * 64, "f" * 64)
    assert request.code_commit == SHARED.code.label
    assert request.comparison == world.folder / "report" / "comparison.md"
    assert request.example is not None
    assert (request.example.prompt, request.example.answer) == ("name[Aromi]", "Aromi.")


def test_the_cell_that_is_registered_is_the_one_that_ran(world: World) -> None:
    asked = registration_of(world, "run7")
    assert asked.winner.trained is not None
    ran = asked.winner.trained.cell.model_copy(update={"fingerprint": "9" * 64})
    trained = asked.winner.trained.model_copy(update={"cell": ran})
    winner = asked.winner.model_copy(update={"trained": trained})

    assert register_request(asked.model_copy(update={"winner": winner}), world.folder).fingerprint == "9" * 64


def test_a_winner_whose_run_the_server_does_not_know_cannot_be_registered_yet(world: World) -> None:
    with pytest.raises(DependencyError, match=r"could not be reached.*run the same command again"):
        register_request(registration_of(world, ""), world.folder)


def test_a_cell_that_was_not_evaluated_cannot_be_registered(world: World) -> None:
    registration = registration_of(world, "run7")
    half = registration.winner.model_copy(update={"evaluated": None})

    with pytest.raises(ValueError, match="every step succeeded"):
        register_request(registration.model_copy(update={"winner": half}), world.folder)


def test_the_request_names_what_the_winner_goes_on_from(world: World) -> None:
    registration = registration_of(world, "run7")
    trained = registration.winner.trained
    assert trained is not None
    cell = trained.cell.model_copy(update={"sources": {"init_from": EARLIER}})
    winner = registration.winner.model_copy(update={"trained": trained.model_copy(update={"cell": cell})})

    request = register_request(registration.model_copy(update={"winner": winner}), world.folder)
    assert request.sources == {"init_from": EARLIER}
