"""The gate is closed unless everything that it asks for is there, finite, good enough, and of this very model."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks.promotion import gate
from tasks.promotion.evidence import Check, Evidence
from tasks.promotion.gate import Champion, Situation, judge
from tasks.promotion.paired import Interval
from tasks.registry.record import MergeRecord, Record, Scored, ScoredChampion
from tasks.registry.settings import Bounds, ChampionRule, GateSettings
from tests.promotion.worlds import CHAMPION_PACKAGE, ROW_IDS, good_record, good_situation, per_row

FULL = GateSettings(
    thresholds={"loss": Bounds(max=1.05), "exact_match": Bounds(min=0.8, max=1.0)},
    max_forgetting=0.1,
    max_answer_seconds=0.5,
    max_memory_bytes=2**30,
    committed_code=True,
)


def failures(record: Record, settings: GateSettings = FULL, situation: Situation | None = None) -> list[str]:
    return [check.name for check in judge(record, settings, situation or good_situation()) if not check.passed]


def test_a_record_with_everything_passes_and_every_check_is_told() -> None:
    checks = judge(good_record(), FULL, good_situation())
    assert [check.name for check in checks] == [
        *("record", "same model", "scores", "threshold exact_match", "threshold loss", "champion loss", "forgetting"),
        *("merge", "leak", "answer", "answer time", "memory", "code"),
    ]
    assert all(check.passed for check in checks)


def test_without_a_champion_there_is_nothing_to_be_better_than() -> None:
    assert failures(good_record(champion=None), situation=good_situation(champion=None)) == []


def test_a_difference_that_chance_explains_is_not_better() -> None:
    dice = random.Random(0)
    noisy = per_row([1.0 + dice.gauss(0.0, 0.3) for _ in ROW_IDS])
    theirs = good_record().champion
    assert theirs is not None
    theirs = theirs.model_copy(update={"per_row": {"loss": per_row([1.01 + dice.gauss(0.0, 0.3) for _ in ROW_IDS])}})
    record = good_record(scored=good_record().scored.model_copy(update={"per_row": {"loss": noisy}}), champion=theirs)
    assert failures(record) == ["champion loss"]


def test_as_good_as_the_champion_passes_where_no_more_is_asked() -> None:
    mine = good_record().scored
    same = ScoredChampion(**mine.model_dump(), version=1, package_digest=CHAMPION_PACKAGE)
    assert failures(good_record(champion=same)) == ["champion loss"]
    asked = FULL.model_copy(update={"champion": ChampionRule(require="not_worse")})
    assert failures(good_record(champion=same), asked) == []


def test_a_margin_in_units_of_the_metric_is_asked_of_the_whole_interval() -> None:
    for margin, failed in ((0.09, []), (0.2, ["champion loss"])):
        rule = ChampionRule(margin=margin)
        assert failures(good_record(), FULL.model_copy(update={"champion": rule})) == failed


def test_more_is_better_where_the_metric_says_so() -> None:
    asked = FULL.model_copy(update={"champion": ChampionRule(metric="exact_match")})
    assert failures(good_record(), asked) == []
    turned = good_record(directions={"loss": False, "exact_match": False})
    assert failures(turned, asked) == ["champion exact_match"]


def scored(**changed: Any) -> Record:
    return good_record(scored=good_record().scored.model_copy(update=changed))


def champion(**changed: Any) -> Record:
    theirs = good_record().champion
    assert theirs is not None
    return good_record(champion=theirs.model_copy(update=changed))


BROKEN: dict[str, tuple[Callable[[], Record], list[str]]] = {
    "no run": (lambda: good_record(run_id=""), ["record"]),
    "no code": (lambda: good_record(code_commit=""), ["record", "code"]),
    "a fingerprint that is none": (lambda: good_record(fingerprint="lora"), ["record"]),
    "another package": (lambda: good_record(package_digest="f" * 64), ["same model"]),
    "no package": (lambda: good_record(package_digest=""), ["same model"]),
    "scores of other weights": (lambda: scored(weights_digest="f" * 64), ["same model"]),
    "a metric that is missing": (lambda: scored(metrics={"loss": 1.0}), ["threshold exact_match"]),
    "a metric that is NaN": (
        lambda: scored(metrics={"loss": math.nan, "exact_match": 0.9}),
        ["scores", "threshold loss"],
    ),
    "a metric that is infinite": (
        lambda: scored(metrics={"loss": -math.inf, "exact_match": 0.9}),
        ["scores", "threshold loss"],
    ),
    "a metric beyond its bound": (lambda: scored(metrics={"loss": 1.06, "exact_match": 0.9}), ["threshold loss"]),
    "no metrics": (lambda: scored(metrics={}), ["scores", "threshold exact_match", "threshold loss"]),
    "a row that is NaN": (
        lambda: scored(per_row={"loss": per_row([math.nan, *[1.0] * 39])}),
        ["scores", "champion loss"],
    ),
    "no rows": (lambda: scored(per_row={}), ["champion loss"]),
    "other rows": (lambda: scored(rows_digest="f" * 64), ["champion loss"]),
    "unnamed rows": (lambda: scored(rows_digest=""), ["scores", "champion loss"]),
    "the champion was not asked": (lambda: good_record(champion=None), ["champion loss"]),
    "another champion": (lambda: champion(version=7), ["champion loss"]),
    "the champion's files changed": (lambda: champion(package_digest="f" * 64), ["champion loss"]),
    "the champion saw other rows": (lambda: champion(rows_digest="f" * 64), ["champion loss"]),
    "the champion lacks rows": (
        lambda: champion(per_row={"loss": dict(list(per_row([2.0] * 40).items())[:30])}),
        ["champion loss"],
    ),
    "an unknown direction": (lambda: good_record(directions={}), ["champion loss"]),
    "no probe": (lambda: good_record(base_probe_loss=None), ["forgetting"]),
    "a probe that is NaN": (lambda: good_record(base_probe_loss=math.nan), ["forgetting"]),
    "it forgot": (lambda: scored(probe_loss=2.2), ["forgetting"]),
    "merged without proof": (lambda: good_record(merge=MergeRecord(outcome="merged")), ["merge"]),
    "merged with a bad proof": (
        lambda: good_record(merge=MergeRecord(outcome="merged", largest_difference=1e-3, tolerance=1e-5)),
        ["merge"],
    ),
    "a proof that is NaN": (
        lambda: good_record(merge=MergeRecord(outcome="merged", largest_difference=math.nan, tolerance=1e-5)),
        ["merge"],
    ),
    "a leak": (lambda: good_record(leaked_rows=3, on_leak="report"), ["leak"]),
    "no evaluation rows": (lambda: good_record(eval_rows=0), ["leak"]),
    "code that was changed": (lambda: good_record(code_commit="6" * 40 + "-dirty-1"), ["code"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_row_47_what_is_missing_not_finite_or_of_something_else_does_not_pass(case: str) -> None:
    make, wanted = BROKEN[case]
    assert failures(make()) == wanted


def test_leaked_rows_that_were_taken_out_of_training_do_no_harm() -> None:
    assert failures(good_record(leaked_rows=3, on_leak="drop")) == []


@pytest.mark.parametrize("outcome", ["not_needed", "cannot", "disabled"])
def test_what_was_not_merged_has_nothing_to_prove(outcome: Any) -> None:
    assert failures(good_record(merge=MergeRecord(outcome=outcome))) == []


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({"same_answer": False}, ["answer"]),
        ({"answer_seconds": 0.6}, ["answer time"]),
        ({"answer_seconds": math.nan}, ["answer time"]),
        ({"peak_memory_bytes": 2**31}, ["memory"]),
        ({"peak_memory_bytes": 0}, ["memory"]),
    ],
)
def test_a_trial_that_is_too_slow_too_large_or_answers_otherwise_does_not_pass(
    changed: dict[str, Any], wanted: list[str]
) -> None:
    trial = good_situation().trial.model_copy(update=changed)
    assert failures(good_record(), situation=good_situation(trial=trial)) == wanted


def test_another_machine_s_words_pass_only_where_that_is_allowed_and_never_without_a_word() -> None:
    lenient = FULL.model_copy(update={"answer": "any"})
    for answer, failed in (("other words", []), ("  ", ["answer"])):
        trial = good_situation().trial.model_copy(update={"same_answer": False, "answer": answer})
        assert failures(good_record(), lenient, good_situation(trial=trial)) == failed


def test_evidence_without_a_single_check_is_no_pass() -> None:
    facts = {"model_name": "faq", "version": 1, "package_digest": "", "record_digest": "", "rows_digest": ""}
    trial = good_situation().trial
    empty = Evidence(**facts, data_digest="", champion=None, settings=FULL, settings_from="", trial=trial, checks=())
    assert not empty.passed
    one = empty.model_copy(update={"checks": (Check(name="a", passed=True, found="", wanted=""),)})
    assert one.passed


def remembered(function: Callable[..., Interval]) -> Callable[..., Interval]:
    """The same function, asked once per input: the records differ elsewhere, and a bootstrap takes some time."""
    known: dict[str, Interval] = {}

    def ask(mine: dict[str, float], theirs: dict[str, float], **options: Any) -> Interval:
        key = repr((mine, theirs, options))
        if key not in known:
            known[key] = function(mine, theirs, **options)
        return known[key]

    return ask


def generated(count: int) -> Iterator[tuple[Record, Situation, bool]]:
    """Records with up to two harmless changes and then up to two faults out of all kinds, and whether they pass."""
    dice = random.Random(47)
    bad_numbers = [math.nan, math.inf, -math.inf]
    for _ in range(count):
        record, situation = good_record(), good_situation()
        faults = dice.choices(FAULTS, k=dice.choice([0, 1, 2]))
        for change in (*dice.choices(HARMLESS, k=dice.choice([0, 1, 2])), *faults):
            record, situation = change(record, situation, dice.choice(bad_numbers))
        yield record, situation, not faults


Mutated = tuple[Record, Situation]


def _change_scores(**changed: Any) -> Callable[[Record, Situation, float], Mutated]:
    return lambda r, s, x: (r.model_copy(update={"scored": r.scored.model_copy(update=changed)}), s)


def _bad_metric(name: str) -> Callable[[Record, Situation, float], Mutated]:
    def change(record: Record, situation: Situation, number: float) -> Mutated:
        metrics = record.scored.metrics | {name: number}
        return _change_scores(metrics=metrics)(record, situation, number)

    return change


def _bad_row(record: Record, situation: Situation, number: float) -> Mutated:
    rows = dict(record.scored.per_row.get("loss", per_row([1.0] * 40)))
    rows[ROW_IDS[17]] = number
    return _change_scores(per_row=record.scored.per_row | {"loss": rows})(record, situation, number)


def _champion_with(**changed: Any) -> Callable[[Record, Situation, float], Mutated]:
    def change(record: Record, situation: Situation, number: float) -> Mutated:
        theirs = record.champion.model_copy(update=changed) if record.champion else None
        return record.model_copy(update={"champion": theirs}), situation

    return change


def _record_with(**changed: Any) -> Callable[[Record, Situation, float], Mutated]:
    return lambda record, situation, number: (record.model_copy(update=changed), situation)


def _trial_with(**changed: Any) -> Callable[[Record, Situation, float], Mutated]:
    def change(record: Record, situation: Situation, number: float) -> Mutated:
        trial = situation.trial.model_copy(update=changed)
        return record, situation.model_copy(update={"trial": trial})

    return change


def _moved_champion(record: Record, situation: Situation, number: float) -> Mutated:
    other = Champion(version=9, package_digest="9" * 64)
    return record, situation.model_copy(update={"champion": other})


HARMLESS: list[Callable[[Record, Situation, float], Mutated]] = [
    _record_with(label="another name"),
    _record_with(leaked_rows=2, on_leak="drop"),
    _record_with(merge=MergeRecord(outcome="cannot")),
    _record_with(answer=None),
]
FAULTS: list[Callable[[Record, Situation, float], Mutated]] = [
    _bad_metric("loss"),
    _bad_metric("exact_match"),
    _bad_row,
    _change_scores(weights_digest="7" * 64),
    _change_scores(weights_digest=""),
    _change_scores(rows_digest="7" * 64),
    _change_scores(rows_digest=""),
    _change_scores(metrics={"loss": 5.0, "exact_match": 0.9}),
    _change_scores(metrics={"loss": 1.0, "exact_match": 0.1}),
    _change_scores(metrics={}),
    _change_scores(per_row={}),
    _change_scores(probe_loss=None),
    _change_scores(probe_loss=9.0),
    _champion_with(version=8),
    _champion_with(package_digest=""),
    _champion_with(rows_digest=""),
    _champion_with(per_row={}),
    _champion_with(per_row={"loss": per_row([0.1] * 40)}),
    _record_with(champion=None),
    _record_with(run_id=""),
    _record_with(data_digest="none"),
    _record_with(package_digest=""),
    _record_with(directions={}),
    _record_with(base_probe_loss=math.nan),
    _record_with(leaked_rows=1, on_leak="report"),
    _record_with(merge=MergeRecord(outcome="merged")),
    _record_with(code_commit="0" * 40 + "-dirty"),
    _trial_with(same_answer=False),
    _trial_with(answer_seconds=math.inf),
    _trial_with(peak_memory_bytes=2**40),
    _moved_champion,
]


def test_row_47_of_ten_thousand_records_none_passes_that_should_not_and_all_pass_that_should(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "improvement", remembered(gate.improvement))
    counted = {True: 0, False: 0}
    for record, situation, passes in generated(10_000):
        found = all(check.passed for check in judge(record, FULL, situation))
        assert found == passes, judge(record, FULL, situation)
        counted[passes] += 1
    assert min(counted.values()) > 1000


def test_scores_that_are_not_finite_survive_the_file() -> None:
    record = scored(metrics={"loss": math.nan, "exact_match": math.inf})
    again = Record.model_validate_json(record.model_dump_json())
    assert math.isnan(again.scored.metrics["loss"]) and again.scored.metrics["exact_match"] == math.inf
    assert isinstance(again.scored, Scored)
