from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from tasks.metrics.rouge import Rouge
from tests.metrics.worlds import said

PAIRS = [
    ("The Vaults is a 5-star pub, near Café_X.", ("A pub near the river: The Vaults!", "the vaults is a star pub")),
    ("nothing in common", ("entirely different words",)),
]


def test_on_ascii_it_is_rouge_score_with_the_best_reference_per_kind() -> None:
    pairs = [(left.replace("é", "e"), references) for left, references in PAIRS]
    measured = Rouge().measure([said(prediction, *references) for prediction, references in pairs])
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for kind in scorer.rouge_types:
        best = [max(scorer.score(text, left)[kind].fmeasure for text in references) for left, references in pairs]
        assert measured.values[kind] == pytest.approx(sum(best) / len(best)), kind


def test_rouge_l_by_hand() -> None:
    measured = Rouge().measure([said("a b c d", "a c x")])
    precision, recall = 2 / 4, 2 / 3
    assert measured.per_example == pytest.approx([2 * precision * recall / (precision + recall)])


def test_chinese_counts_by_character() -> None:
    measured = Rouge().measure([said("价格不高", "价格高")])
    assert measured.values["rouge1"] == pytest.approx(2 * (3 / 4) * (3 / 3) / (3 / 4 + 1))
    assert measured.values["rouge2"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_letters_beyond_ascii_are_words_too() -> None:
    assert Rouge().measure([said("Привет мир", "привет, мир")]).values["rougeL"] == pytest.approx(1.0)


def test_an_empty_prediction_scores_zero() -> None:
    assert Rouge().measure([said("", "a b")]).values == {"rougeL": 0.0, "rouge1": 0.0, "rouge2": 0.0}
