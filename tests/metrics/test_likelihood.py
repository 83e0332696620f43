from __future__ import annotations

import math

import pytest

from tasks.foundation.errors import DataError
from tasks.metrics.loss import Loss
from tasks.metrics.perplexity import Perplexity
from tests.metrics.worlds import lost


def test_loss_is_the_sum_over_all_tokens_divided_by_their_number() -> None:
    measured = Loss().measure([lost(6.0, 2), lost(1.0, 5)])
    assert measured.values["loss"] == pytest.approx(1.0)
    assert measured.values["perplexity"] == pytest.approx(math.e)


def test_loss_per_example_is_the_mean_over_its_own_tokens() -> None:
    assert Loss().measure([lost(6.0, 2), lost(1.0, 5)]).per_example == (3.0, 0.2)


def test_perplexity_is_exp_of_the_token_loss_not_the_mean_over_rows() -> None:
    measured = Perplexity().measure([lost(6.0, 2), lost(1.0, 5)])
    assert measured.values == {"perplexity": pytest.approx(math.e)}
    assert measured.per_example == pytest.approx((math.exp(3.0), math.exp(0.2)))


def test_a_row_without_answer_tokens_is_refused_and_named() -> None:
    with pytest.raises(DataError, match=r"row r: no answer token"):
        Loss().measure([lost(0.0, 0)])


def test_a_perplexity_beyond_floats_is_an_error_not_infinity() -> None:
    with pytest.raises(DataError, match="no finite perplexity"):
        Perplexity().measure([lost(2000.0, 2)])
