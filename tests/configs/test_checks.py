"""`validate`: what files, sizes and settings show before anything is computed."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from configs import checks
from configs.checks import validate
from configs.experiment import Experiment
from tasks.foundation.errors import TunelineError
from tests.configs.models import write_model

ROWS = [{"prompt": f"say {n}", "completion": f"number {n}"} for n in range(20)]


class World:
    """A folder with a model, data and an experiment over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_model(folder / "model")
        self.data = folder / "rows.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    def problems(self, **changes: object) -> list[TunelineError]:
        """What `validate` finds in the experiment with changed sections."""
        sections = {
            "name": "a",
            "model": {"name_or_path": str(self.model)},
            "data": {"train": str(self.data), "max_seq_length": 64},
            "methods": [{"kind": "none"}, {"kind": "lora", "r": 4}],
            **changes,
        }
        found = validate(Experiment.model_validate(sections), {"TUNELINE_RUNS": str(self.folder / "runs")})
        assert not [problem for problem in found if "\n" in str(problem)]
        return found

    def one(self, **changes: object) -> tuple[int, str]:
        """Exit code and text of the only problem."""
        found = self.problems(**changes)
        assert len(found) == 1, [str(problem) for problem in found]
        return found[0].exit_code, str(found[0])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_sound_experiment_has_no_problems_and_nothing_is_made(world: World) -> None:
    before = sorted(world.folder.rglob("*"))
    assert world.problems() == []
    assert sorted(world.folder.rglob("*")) == before


def test_a_missing_data_file_suggests_its_neighbour(world: World) -> None:
    code, text = world.one(data={"train": str(world.folder / "row.jsonl")})
    assert code == 11
    assert f"Did you mean {world.folder}/rows.jsonl?" in text
    assert text.startswith("data.train: ")


def test_a_missing_evaluation_file_is_named_by_its_own_key(world: World) -> None:
    code, text = world.one(
        data={"train": str(world.data), "eval": str(world.folder / "dev.jsonl"), "max_seq_length": 64}
    )
    assert (code, text.partition(":")[0]) == (11, "data.eval")


def test_columns_that_fit_no_format_are_named(world: World) -> None:
    world.data.write_text('{"mr": "a", "ref": "b"}\n', encoding="utf-8")
    code, text = world.one()
    assert code == 11
    assert "'mr', 'ref'" in text
    mapped = {"train": str(world.data), "columns": {"prompt": "mr", "completion": "ref"}, "max_seq_length": 64}
    assert world.problems(data=mapped) == []


def test_a_bad_row_is_named_with_its_line_unless_some_are_allowed(world: World) -> None:
    rows = world.data.read_text(encoding="utf-8").splitlines()
    world.data.write_text("\n".join([*rows[:2], '{"prompt": "x", "completion": ""}', *rows[2:]]), encoding="utf-8")
    code, text = world.one()
    assert code == 11
    assert f"{world.data}:3: " in text
    assert "data.max_bad_fraction" in text
    assert world.problems(data={"train": str(world.data), "max_bad_fraction": 0.1, "max_seq_length": 64}) == []


def test_the_first_bad_row_of_the_file_is_named_first(world: World) -> None:
    rows = world.data.read_text(encoding="utf-8").splitlines()
    bad = ['{"prompt": "x", "completion": ""}', "no json"]
    world.data.write_text("\n".join([*rows, *bad]), encoding="utf-8")
    assert f"{world.data}:21: empty_field" in world.one()[1]


def test_a_row_that_the_run_finds_too_long_is_found_now(world: World) -> None:
    data = {"train": str(world.data), "max_seq_length": 64, "max_row_characters": 14}
    code, text = world.one(data=data)
    assert (code, "too_long (15 characters, 14 are allowed)" in text) == (11, True), text
    assert world.problems(data={**data, "max_row_characters": 15}) == []


def test_an_empty_file_is_refused(world: World) -> None:
    world.data.write_text("", encoding="utf-8")
    assert world.one()[0] == 11


def test_a_missing_model_and_missing_data_are_both_reported(world: World) -> None:
    found = world.problems(model={"name_or_path": str(world.folder / "modle")}, data={"train": "nowhere.jsonl"})
    assert sorted(problem.exit_code for problem in found) == [11, 12]


def test_a_model_folder_without_weights_is_refused(world: World) -> None:
    (world.model / "model.safetensors").unlink()
    assert world.one()[0] == 12


def test_answers_that_leave_no_room_for_a_prompt_are_refused(world: World) -> None:
    evaluation = {"metrics": ["loss", "bleu"], "max_new_tokens": 128}
    assert world.one(evaluation=evaluation) == (
        10,
        "evaluation.max_new_tokens: 128 tokens leave no room for a prompt in the model's context of 128. "
        "Allowed: below 128. Lower it.",
    )
    assert world.problems(evaluation={**evaluation, "metrics": ["loss"]}) == []


def test_a_method_says_what_it_cannot_do_here(world: World) -> None:
    code, text = world.one(methods=[{"kind": "lora", "r": 100_000}])
    assert code == 10
    assert "methods[lora]" in text


def test_prefix_tuning_and_gradient_checkpointing_are_refused_before_anything_is_loaded(world: World) -> None:
    code, text = world.one(methods=[{"kind": "prefix_tuning"}], training={"gradient_checkpointing": True})
    assert code == 10
    assert "training.gradient_checkpointing" in text


def test_a_tracking_uri_that_mlflow_refuses_is_found_now(world: World) -> None:
    code, text = world.one(tracking={"uri": "./mlruns"})
    assert code == 10
    assert "tracking.uri" in text


def test_a_missing_probe_is_named(world: World) -> None:
    (world.folder / "probe.txt").write_text("text")
    code, text = world.one(evaluation={"metrics": ["loss"], "probe": str(world.folder / "prob.txt")})
    assert code == 11
    assert text.startswith("evaluation.probe: ")
    assert text.endswith("probe.txt?")


def test_a_runs_folder_that_cannot_be_written_is_a_lack_of_resources(world: World) -> None:
    (world.folder / "runs").write_text("a file")
    code, text = world.one()
    assert code == 20
    assert "TUNELINE_RUNS" in text


def test_a_tracking_database_that_cannot_be_written_is_found_now(world: World) -> None:
    (world.folder / "file").write_text("")
    code, text = world.one(tracking={"uri": f"sqlite:///{world.folder}/file/mlflow.db"})
    assert (code, text.partition(":")[0]) == (20, "tracking.uri")
    assert world.problems(tracking={"uri": "http://127.0.0.1:9"}) == [], "a server that is down stops nothing"


def test_a_disk_that_is_too_small_for_what_the_cells_leave_is_found_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = 50 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, free))
    code, text = world.one()
    assert code == 20
    assert f"are needed and {free:,} are free" in text
    assert world.problems(merge={"enabled": False}) == []


def test_databases_and_logs_need_room_whatever_the_cells_leave(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 3 * 2**20))
    code, text = world.one(methods=[{"kind": "none"}])
    assert (code, "are needed and 3,145,728 are free" in text) == (20, True), text


def test_hub_models_are_left_to_the_start_of_the_run(world: World) -> None:
    assert world.problems(model={"name_or_path": "Org/model", "revision": "a" * 40}) == []


def test_the_embedded_model_is_fine_and_a_misspelt_one_is_not(world: World) -> None:
    assert world.problems(model={"name_or_path": checks.EMBEDDED_MODEL}) == []
    code, text = world.one(model={"name_or_path": "embedded:tiny-lama"})
    assert code == 10
    assert "Use embedded:tiny-llama." in text


def test_a_source_that_is_not_there_is_a_problem_of_the_method_that_names_it(world: World) -> None:
    code, text = world.one(methods=[{"kind": "lora", "init_from": str(world.folder / "modle")}])
    assert code == 12
    assert text.startswith("methods[lora].init_from: ") and f"Did you mean {world.folder / 'model'}?" in text


def test_a_source_that_only_mlflow_knows_is_left_to_the_run(world: World) -> None:
    assert world.problems(methods=[{"kind": "lora", "init_from": "0123456789abcdef" * 2}]) == []
    code, text = world.one(methods=[{"kind": "lora", "init_from": "models:/tuned"}])
    assert code == 10 and "models:/NAME@ALIAS" in text
