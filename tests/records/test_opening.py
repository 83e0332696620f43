"""What is known of a run before anything has run."""

from __future__ import annotations

import json
import sys
from importlib import metadata

from tasks.launch import Layout
from tasks.records import Context, context, describe_cell, describe_run
from tasks.registry.values import CodeState
from tests.records.worlds import EARLIER, LORA, NONE, RUN, World

SETTINGS = {
    "name": "stories",
    "model": {"name_or_path": "tiny", "revision": None},
    "methods": [LORA],
    "training": {"max_steps": 300, "seeds": [0, 3]},
    "evaluation": {"metrics": ["loss", "bleu"]},
    "tracking": {"uri": "http://user:canary@host"},
}
SHARED = Context(
    experiment="stories",
    settings=SETTINGS,
    code=CodeState(version="0.1", code_digest="c" * 64, commit="a" * 40),
    flow_run_url="http://127.0.0.1:4200/runs/1",
)


def test_settings_become_flat_params_with_what_the_cell_made_of_them(world: World) -> None:
    describe_cell(world.cell(LORA), world.run(), SHARED)

    params = world.arrived().params
    expected = {
        "method.kind": "lora",
        "method.r": "4",
        "method.learning_rate": "0.01",
        "training.learning_rate": "0.01",
        "training.weight_decay": "0.0",
        "training.max_steps": "20",
        "training.save_steps": "5",
        "model.name_or_path": "tiny",
        "evaluation.metrics": '["loss", "bleu"]',
        "seed": "3",
        "tracking.uri": "http://***@host",
    }
    assert expected.items() <= params.items()
    assert not [name for name in params if name.startswith("methods")]


def test_a_cell_is_found_by_its_tags(world: World) -> None:
    describe_cell(world.cell(LORA), world.run(), SHARED)

    assert {
        "tuneline.cell": "f" * 64,
        "tuneline.label": "lora",
        "tuneline.method": "lora",
        "tuneline.seed": "3",
        "tuneline.base_digest": "b" * 64,
    }.items() <= world.arrived().tags.items()


def test_engine_ranks_and_nodes_are_told_of_what_trains_and_of_nothing_else(world: World) -> None:
    stage = {"zero_optimization": {"stage": 2}}
    layout = Layout(nodes=2, ranks_per_node=4, engine="deepspeed", deepspeed=stage)
    describe_cell(world.cell(LORA).model_copy(update={"layout": layout}), world.run(), SHARED)
    describe_cell(world.cell(NONE), world.run("base"), SHARED)

    gang = {"tuneline.engine": "zero2", "tuneline.world_size": "8", "tuneline.nodes": "2"}
    assert gang.items() <= world.arrived().tags.items()
    assert not gang.keys() & world.arrived("base").tags.keys()


def test_a_run_holds_the_whole_configuration_the_environment_and_the_code_state(world: World) -> None:
    describe_run(world.run(), SHARED)

    run = world.arrived()
    configuration = json.loads(run.artifacts["configuration/experiment.json"])
    assert configuration == SETTINGS | {"tracking": {"uri": "http://***@host"}}
    assert json.loads(run.artifacts["configuration/code.json"])["commit"] == "a" * 40
    assert run.tags["tuneline.code"].startswith("a" * 12)
    assert run.tags["tuneline.prefect"] == "http://127.0.0.1:4200/runs/1"


def test_the_environment_is_a_list_of_pins_that_pip_can_read(world: World) -> None:
    describe_run(world.run(), SHARED)

    first, *pins = world.arrived().artifacts["configuration/environment.txt"].decode().splitlines()
    assert first.startswith(f"# python {sys.version.split()[0]} on ")
    assert f"pydantic=={metadata.version('pydantic')}" in pins
    assert all(len(pin.split("==")) == 2 and "None" not in pin.split("==") for pin in pins)
    assert pins == sorted(pins, key=str.lower)


def test_without_an_orchestrators_page_there_is_no_link_to_it(world: World) -> None:
    describe_run(world.run(), SHARED.model_copy(update={"flow_run_url": ""}))

    assert "tuneline.prefect" not in world.arrived().tags


def test_the_context_knows_which_code_this_is() -> None:
    here = context("stories", SETTINGS, "")

    assert len(here.code.code_digest) == 64
    assert here.settings == SETTINGS


def test_what_a_cell_goes_on_from_is_told_by_run_and_digest(world: World) -> None:
    folder = EARLIER.model_copy(update={"reference": "/home/me/adapters/first", "run_id": "", "digest": "6" * 64})
    cell = world.cell(LORA).model_copy(update={"sources": {"init_from": EARLIER, "adapters.0": folder}})
    describe_cell(cell, world.run(), SHARED)

    tags = {name: text for name, text in world.arrived().tags.items() if name.startswith("tuneline.source")}
    assert tags == {
        "tuneline.source.init_from": f"run {RUN}",
        "tuneline.source.init_from.run_id": RUN,
        "tuneline.source.init_from.sha256": "5" * 64,
        "tuneline.source.adapters.0": "first",
        "tuneline.source.adapters.0.sha256": "6" * 64,
    }
