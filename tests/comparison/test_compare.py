from __future__ import annotations

import math

import pytest

from tasks.comparison import Comparison, compare, to_markdown
from tasks.foundation.errors import ConfigError, IntegrityError
from tests.comparison.worlds import BLEU, DIGEST, LOSS, five_cells, five_rows, row


def labels(metric: str) -> list[str]:
    return [each.label for each in five_cells(metric).rows]


def test_rows_stand_best_first_then_unscored_then_failed() -> None:
    assert labels("loss") == ["full", "lora", "none", "prompt_tuning", "ia3"]


def test_a_metric_where_more_is_better_turns_the_order_round() -> None:
    assert labels("bleu") == ["full", "lora", "prompt_tuning", "none", "ia3"]


def test_equal_scores_stand_by_label_however_the_rows_came() -> None:
    rows = [row("b", metrics={"loss": 1.0}), row("a", metrics={"loss": 1.0})]
    for given in (rows, rows[::-1]):
        comparison = compare("tie", given, [LOSS], "loss", DIGEST)
        assert [each.label for each in comparison.rows] == ["a", "b"]
        assert comparison.winner == "a"


def test_delta_is_the_difference_to_the_untuned_base() -> None:
    rows = {each.label: each for each in five_cells().rows}
    assert rows["full"].delta == {"loss": pytest.approx(-3.2), "bleu": pytest.approx(31.11)}
    assert rows["prompt_tuning"].delta == {"bleu": pytest.approx(2.98)}, "no difference where there is no number"
    assert rows["none"].delta == {}
    assert rows["ia3"].delta == {}


def test_the_champion_stands_in_the_order_and_never_wins() -> None:
    rows = [row("champion", metrics={"loss": 0.5}), row("lora", metrics={"loss": 1.0})]
    comparison = compare("nightly", rows, [LOSS], "loss", DIGEST)
    assert [each.label for each in comparison.rows] == ["champion", "lora"]
    assert comparison.winner == "lora"


def test_without_a_base_there_are_no_deltas() -> None:
    rows = [each for each in five_rows() if each.kind != "none"]
    assert all(each.delta == {} for each in compare("c", rows, [LOSS], "loss", DIGEST).rows)


def test_the_untuned_base_never_wins() -> None:
    rows = [row("none", metrics={"loss": 0.5}), row("lora", metrics={"loss": 0.9})]
    comparison = compare("c", rows, [LOSS], "loss", DIGEST)
    assert comparison.rows[0].label == "none"
    assert comparison.winner == "lora"


@pytest.mark.parametrize("metrics", [{"loss": float("nan")}, {"loss": float("-inf")}, {"bleu": 99.0}, {}])
def test_a_cell_without_a_finite_deciding_metric_is_shown_and_cannot_win(metrics: dict[str, float]) -> None:
    rows = [row("odd", metrics=metrics), row("none", metrics={"loss": 2.0})]
    comparison = compare("c", rows, [LOSS, BLEU], "loss", DIGEST)
    assert [each.label for each in comparison.rows] == ["none", "odd"]
    assert comparison.winner is None


def test_a_failed_cell_cannot_win_even_with_a_score() -> None:
    rows = [row("odd", "failed", metrics={"loss": 0.1}), row("lora", metrics={"loss": 2.0})]
    assert compare("c", rows, [LOSS], "loss", DIGEST).winner == "lora"


@pytest.mark.parametrize("digest", ["e" * 64, ""])
def test_scores_on_other_evaluation_rows_are_refused(digest: str) -> None:
    rows = [row("none", metrics={"loss": 2.0}), row("lora", metrics={"loss": 1.0}, rows_digest=digest)]
    with pytest.raises(IntegrityError, match="lora was scored on other evaluation rows"):
        compare("c", rows, [LOSS], "loss", DIGEST)


def test_two_cells_with_one_label_are_refused() -> None:
    with pytest.raises(IntegrityError, match="'lora'"):
        compare("c", [row("lora"), row("lora")], [LOSS], "loss", DIGEST)


def test_a_deciding_metric_that_is_not_measured_is_refused_with_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match=r"'chrf'.*Allowed: loss, bleu"):
        compare("c", five_rows(), [LOSS, BLEU], "chrf", DIGEST)


def test_a_comparison_with_a_score_that_is_no_number_survives_its_json() -> None:
    comparison = five_cells()
    again = type(comparison).model_validate_json(comparison.model_dump_json())
    assert [str(each) for each in again.rows] == [str(each) for each in comparison.rows]
    assert math.isnan(again.rows[3].metrics["loss"])


def hard_and_soft(few: float) -> Comparison:
    """A few-shot base in the first place of the file, the zero-shot one, and a tuned cell."""
    rows = [
        row("none", label="5-shot", metrics={"loss": few}, hard_prompt=True),
        row("none", metrics={"loss": 2.0}),
        row("lora", metrics={"loss": 0.9}),
    ]
    return compare("c", rows, [LOSS], "loss", DIGEST)


def test_the_yardstick_is_the_base_without_a_hard_prompt_wherever_it_stands() -> None:
    deltas = {each.label: each.delta for each in hard_and_soft(1.5).rows}
    assert deltas == {"5-shot": {"loss": -0.5}, "none": {}, "lora": {"loss": pytest.approx(-1.1)}}


def test_without_a_base_that_worked_a_hard_prompt_does_not_take_its_place() -> None:
    rows = [
        row("none", label="5-shot", metrics={"loss": 1.0}, hard_prompt=True),
        row("none", "failed"),
        row("lora", metrics={"loss": 0.9}),
    ]
    assert all(each.delta == {} for each in compare("c", rows, [LOSS], "loss", DIGEST).rows)


def test_a_hard_prompt_cannot_win_and_where_it_is_better_that_is_said() -> None:
    assert hard_and_soft(1.5).winner == hard_and_soft(0.5).winner == "lora"
    assert "Winner by lowest loss: lora." in to_markdown(hard_and_soft(1.5)).splitlines()
    verdict = "Winner by lowest loss: lora. 5-shot is better and trains nothing, so it cannot win."
    assert verdict in to_markdown(hard_and_soft(0.5)).splitlines()


def test_a_champion_that_is_better_than_all_challengers_is_said_to_be() -> None:
    rows = [row("champion", label="champion (version 3)", metrics={"loss": 0.4}), row("lora", metrics={"loss": 0.9})]
    said = to_markdown(compare("c", rows, [LOSS], "loss", DIGEST)).splitlines()
    assert "Winner by lowest loss: lora. champion (version 3) is better and in production already." in said
