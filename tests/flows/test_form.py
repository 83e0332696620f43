"""A wrong value in Prefect's form ends in the state Failed, whose message is the line of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.compare_methods import compare_methods
from flows.fine_tune import fine_tune
from tests.flows.worlds import tuneline, write_world


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(flow: Flow[..., Any], server: str, **arguments: Any) -> Any:
    with temporary_settings({PREFECT_API_URL: server}):
        return flow(**arguments, return_state=True)


def test_the_states_message_is_the_line_of_the_command_line(world: Path, prefect_server: str) -> None:
    typed = tuneline(world, "run", "toy.yaml", "training.max_stepz=1")
    state = ended(compare_methods, prefect_server, experiment="toy.yaml", overrides={"training": {"max_stepz": 1}})
    assert (state.name, f"tuneline: {state.message}\n") == ("Failed", typed.stderr)
    assert "Did you mean training.max_steps" in state.message or "max_steps" in state.message


def test_a_wrong_argument_of_one_cell_is_named_in_the_state(world: Path, prefect_server: str) -> None:
    state = ended(fine_tune, prefect_server, base="model", method="lorra", data="train.csv")
    assert state.name == "Failed"
    assert state.message.startswith('argument method: methods[0].kind: no method "lorra".')
    assert "Traceback" not in state.message and "\n" not in state.message


@pytest.mark.system
def test_one_cell_is_registered_and_then_only_new_rows_are_worth_a_run(world: Path, prefect_server: str) -> None:
    overrides = {"data": {"eval": "dev.csv", "max_seq_length": 32}, "methods.0.r": 4}
    arguments = {"base": "model", "data": "train.csv", "max_steps": 2, "register_as": "toy", "overrides": overrides}
    state = ended(fine_tune, prefect_server, **arguments)
    assert state.name == "Completed", state.message
    outcome = state.result()
    assert [each.cell.label for each in outcome.outcomes] == ["base", "lora"]
    assert outcome.version.name == "toy"
    assert state.message.startswith("Winner by lowest loss: lora.") and state.message.endswith("It is toy version 1.")

    changes = {"methods": [{"kind": "lora", "r": 4}], "training": {"max_steps": 2, "save_steps": 2}}
    nightly = {"experiment": "toy.yaml", "only_new_data": True, "overrides": changes}
    same = ended(compare_methods, prefect_server, **nightly)
    assert (same.type, same.name) == (StateType.COMPLETED, "Unchanged")
    assert same.message.startswith("toy version 1 was made from these rows")
    with (world / "train.csv").open("a", encoding="utf-8") as file:
        file.write("w3 w4,w3 w4\n")
    fresh = ended(compare_methods, prefect_server, **nightly)
    assert (fresh.name, fresh.result().version.version) == ("Completed", 2)


def test_to_look_for_new_data_needs_a_registered_model(world: Path, prefect_server: str) -> None:
    nothing = {"registry.model": None}
    state = ended(compare_methods, prefect_server, experiment="toy.yaml", only_new_data=True, overrides=nothing)
    assert state.name == "Failed" and state.message.startswith("argument only_new_data: ")
