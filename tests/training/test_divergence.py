"""What a loss may do before training is given up."""

from __future__ import annotations

from tasks.training.divergence import LossWatch


def reasons(losses: list[float], norms: list[float] | None = None) -> list[str]:
    """What a watch with factor 2 and patience 3 says after each loss."""
    watch = LossWatch(2.0, 3)
    return [watch.see(loss, norm) for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True)]


def test_a_loss_that_falls_is_well() -> None:
    assert set(reasons([4.0, 3.0, 2.0, 1.0, 0.5, 0.1])) == {""}


def test_a_loss_that_stays_high_is_given_up_after_patience_losses_in_a_row() -> None:
    said = reasons([4.0, 3.0, 9.0, 9.0, 9.0])
    assert said[:4] == [""] * 4
    assert said[4].startswith("above 2 times its best")


def test_one_loss_that_is_low_again_begins_the_count_anew() -> None:
    assert set(reasons([4.0, 9.0, 9.0, 4.0, 9.0, 9.0, 4.0])) == {""}


def test_below_where_it_began_a_loss_may_multiply() -> None:
    assert set(reasons([4.0] + [0.01] * 50 + [3.9] * 10)) == {""}


def test_a_single_lucky_batch_is_not_the_best() -> None:
    assert set(reasons([4.0, 0.1, 4.5, 4.5, 4.5, 4.5])) == {""}


def test_gradients_that_are_exactly_zero_are_given_up_unless_the_loss_is_too() -> None:
    assert reasons([4.0] * 4, [1.0, 0.0, 0.0, 0.0])[-1] == "without any gradient"
    assert set(reasons([0.0] * 4, [0.0] * 4)) == {""}
    assert set(reasons([4.0] * 4, [0.0, 0.0, 1.0, 0.0])) == {""}
