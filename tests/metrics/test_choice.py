from __future__ import annotations

import pytest

from tasks.metrics.accuracy import Accuracy
from tasks.metrics.f1 import MacroF1
from tests.metrics.worlds import chose

CHOICES = [chose("good", "good"), chose("good", "bad"), chose("bad", "bad"), chose("good", "fair")]


def test_accuracy_is_the_share_of_right_choices() -> None:
    measured = Accuracy().measure(CHOICES)
    assert measured.values == {"accuracy": 0.5}
    assert measured.per_example == (1.0, 0.0, 1.0, 0.0)


def test_f1_is_the_mean_over_all_labels_also_one_that_is_never_right() -> None:
    good, bad, fair = 2 * 1 / (1 + 3), 2 * 1 / (2 + 1), 0.0
    measured = MacroF1().measure(CHOICES)
    assert measured.values["f1"] == pytest.approx((good + bad + fair) / 3)
    assert measured.per_example == (1.0, 0.0, 1.0, 0.0)


def test_a_label_that_is_only_ever_chosen_wrongly_lowers_the_mean() -> None:
    assert MacroF1().measure([chose("good", "good"), chose("fair", "good")]).values["f1"] == pytest.approx(
        (2 / 3 + 0) / 2
    )
