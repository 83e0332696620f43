"""From the registry to production, as a user does it: two runs, promotions, a rollback, and what the gate refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.flows.worlds import client, runs_of, tuneline, write_experiment, write_world

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), pytest.mark.usefixtures("prefect_server")]

FULL = {"methods": [{"kind": "full", "learning_rate": 1e-3}]}


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which version 1 was promoted, and version 2 registered after it was compared with that champion."""
    folder = tmp_path_factory.mktemp("promotion")
    write_world(folder)
    write_experiment(folder, **FULL)
    for command in (
        ["run", "toy.yaml"],
        ["promote", "toy", "--reason", "the first one"],
        ["run", "toy.yaml", "training.max_steps=12"],
    ):
        done = tuneline(folder, *command)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def aliases(folder: Path) -> dict[str, str]:
    return {alias: str(version) for alias, version in client(folder).get_registered_model("toy").aliases.items()}


def test_the_champion_is_asked_what_the_challengers_are_asked_and_stands_in_the_table(promoted: Path) -> None:
    comparison = json.loads((promoted / "runs/reports/toy/comparison/comparison.json").read_text(encoding="utf-8"))
    rows = {row["label"]: row for row in comparison["rows"]}
    assert rows["champion (version 1)"]["rows_digest"] == rows["full"]["rows_digest"]
    assert comparison["winner"] == "full"
    tags = [run.data.tags for run in runs_of(client(promoted))]
    assert [tag["mlflow.runName"] for tag in tags if tag.get("tuneline.champion") == "models:/toy/1"] == [
        "champion (version 1)"
    ]


def test_a_gate_that_is_not_passed_is_one_line_and_41(promoted: Path) -> None:
    (promoted / "strict.yaml").write_text("thresholds: {exact_match: {min: 0.99}}\n", encoding="utf-8")
    before = aliases(promoted)
    done = tuneline(promoted, "promote", "toy", "--gate", "strict.yaml", "--reason", "too good to be true")
    assert (done.returncode, len(done.stderr.splitlines())) == (41, 1), done.stderr
    assert "threshold exact_match: 0 (wanted: at least 0.99)" in done.stderr
    assert aliases(promoted) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy", "--reason", " "], "--reason: no reason is given."),
        (["nothing", "--reason", "x"], "there is no registered model 'nothing'"),
        (["toy", "--version", "9", "--reason", "x"], "toy has no version 9"),
        (["toy", "--alias", "best", "--reason", "x"], "toy has no alias 'best'. Allowed: challenger, champion"),
        (["toy", "--gate", "absent.yaml", "--reason", "x"], "absent.yaml: no such file"),
        (["toy", "--reason", "http://ann:s3cret@host"], "--reason: the reason holds a password"),
    ],
)
def test_what_cannot_be_promoted_is_one_line_and_10(promoted: Path, arguments: list[str], said: str) -> None:
    done = tuneline(promoted, "promote", *arguments)
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1), done.stderr
    assert said in done.stderr and "s3cret" not in done.stderr


def test_a_gate_that_wants_a_person_needs_a_server_on_which_one_can_answer(promoted: Path) -> None:
    (promoted / "asks.yaml").write_text("approval: required\n", encoding="utf-8")
    done = tuneline(promoted, "promote", "toy", "--gate", "asks.yaml", "--reason", "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1), done.stderr
    assert "tuneline setup-orchestration" in done.stderr


def test_row_50_the_better_version_is_promoted_rolled_back_and_all_of_it_stands_in_the_history(promoted: Path) -> None:
    done = tuneline(promoted, "promote", "toy", "--reason", "it is better")
    assert (done.returncode, done.stdout.strip()) == (
        0,
        "toy version 2 is the champion now, instead of version 1.",
    ), done.stderr
    assert aliases(promoted) == {"challenger": "2", "champion": "2", "previous": "1"}
    back = tuneline(promoted, "rollback", "toy", "--reason", "it answers badly")
    assert back.returncode == 0, back.stderr
    assert aliases(promoted) == {"challenger": "2", "champion": "1"}
    shown = tuneline(promoted, "history", "toy", "--verify", COLUMNS="80")
    assert shown.returncode == 0, shown.stderr
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "promote 2 (was 1)" in shown.stdout and "rollback 1 (was 2)" in shown.stdout
    assert "The log of toy is whole, and the registry stands as it says." in shown.stdout


def test_row_49_a_file_that_was_touched_is_refused_with_40(promoted: Path) -> None:
    model = next((promoted / "runs" / "mlflow").rglob("artifacts/package/model/model.safetensors")).parents[3]
    version = next(
        each.version
        for each in client(promoted).search_model_versions("name = 'toy'")
        if each.source.endswith(model.name)
    )
    (model / "artifacts" / "package" / "serving.json").write_text("{}", encoding="utf-8")
    before = aliases(promoted)
    done = tuneline(promoted, "promote", "toy", "--version", str(version), "--reason", "x")
    assert (done.returncode, len(done.stderr.splitlines())) == (40, 1), done.stderr
    assert "serving.json was changed" in done.stderr
    assert aliases(promoted) == before
