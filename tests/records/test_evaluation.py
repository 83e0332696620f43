"""The record of the winner's evaluation: what its gate will read."""

from __future__ import annotations

from tasks.evaluation.values import Prediction, RowScore
from tasks.foundation.errors import DataError, ErrorRecord
from tasks.records.champion import ChampionCell, champion_rows
from tasks.records.evaluation import per_row
from tasks.records.winner import register_request
from tests.records.test_winner import registration_of
from tests.records.worlds import LORA, World


def test_scores_are_told_apart_by_row_and_by_prompt(world: World) -> None:
    lines = [
        Prediction(
            id="p1",
            prompt="a",
            references=("b",),
            scores={"exact_match": 1.0},
            rows=(RowScore(id="r1", scores={"loss": 0.5}), RowScore(id="r2", scores={"loss": 0.7})),
        ),
        Prediction(id="p2", prompt="c", references=("d",), scores={"exact_match": 0.0}, rows=()),
    ]
    folder = world.artifact("evaluate").path
    (folder / "predictions.jsonl").write_text("".join(line.model_dump_json() + "\n" for line in lines))
    assert per_row(folder) == {"exact_match": {"p1": 1.0, "p2": 0.0}, "loss": {"r1": 0.5, "r2": 0.7}}


def test_the_record_names_the_weights_that_were_asked_and_what_was_found(world: World) -> None:
    registration = registration_of(world, "run7").model_copy(update={"base_probe_loss": 2.0})
    record = register_request(registration, world.folder / "report").record
    assert record is not None and registration.winner.merged is not None
    assert record.scored.weights_digest == registration.winner.merged.weights_digest
    assert (record.run_id, record.metric, record.answer) == ("run7", "loss", "Aromi.")
    assert record.merge.outcome == registration.winner.merged.outcome
    assert record.base_probe_loss == 2.0
    assert record.package_digest == "", "known when it is packaged"


def champion(world: World) -> ChampionCell:
    merged = world.merged(world.trained(world.cell(LORA)))
    return ChampionCell(version=3, package_digest="9" * 64, merged=merged)


def test_the_champion_s_scores_go_into_the_record_of_the_winner(world: World) -> None:
    asked = champion(world).answered(world.evaluated(), None, "run9")
    registration = registration_of(world, "run7").model_copy(update={"champion": asked})
    record = register_request(registration, world.folder / "report").record
    assert record is not None and record.champion is not None
    assert (record.champion.version, record.champion.package_digest) == (3, "9" * 64)


def test_a_champion_that_could_not_be_asked_leaves_the_reason(world: World) -> None:
    asked = champion(world).answered(None, ErrorRecord.of(DataError("too long")), "")
    assert asked.scored is None
    assert asked.missing == "asking champion version 3 failed: too long"
    assert champion_rows(asked, None) == []


def test_the_champion_is_a_row_of_the_comparison(world: World) -> None:
    asked = champion(world).answered(world.evaluated(), None, "run9")
    row = champion_rows(asked, None)[0]
    assert (row.kind, row.run_id, row.note) == ("champion", "run9", "what production serves now")
