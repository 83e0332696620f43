from __future__ import annotations

import pytest
import sacrebleu
from sacrebleu.metrics import BLEU

from tasks.foundation.errors import DataError
from tasks.metrics.bleu import Bleu
from tasks.metrics.chrf import Chrf
from tests.metrics.worlds import said

ENGLISH = [
    said("the cat sat on the mat today", "the cat sat on the mat", "a cat was on the mat today"),
    said("there is a small pub by the river", "by the river there is a small pub"),
]
CHINESE = [said("红叶花园是一家很好的餐厅", "红叶花园是一家餐厅", "红叶花园很好"), said("价格不高", "价格不算高")]


def test_bleu_is_sacrebleus_corpus_bleu_with_as_many_references_as_there_are() -> None:
    measured = Bleu().measure(ENGLISH)
    streams = [[example.references[0] for example in ENGLISH], [ENGLISH[0].references[1], None]]
    direct = BLEU().corpus_score([example.prediction for example in ENGLISH], streams)
    assert measured.values == {"bleu": direct.score}
    assert measured.signature.startswith("nrefs:var|case:mixed|eff:no|tok:13a|")


def test_a_second_reference_raises_bleu_of_a_prediction_that_follows_it() -> None:
    prediction = "a cat was on the mat today"
    one, two = said(prediction, "the dog sat on a log"), said(prediction, "the dog sat on a log", prediction)
    assert Bleu().measure([one]).values["bleu"] < 10
    assert Bleu().measure([two]).values["bleu"] == pytest.approx(100.0)


def test_bleu_per_example_is_sentence_bleu() -> None:
    expected = [sacrebleu.sentence_bleu(example.prediction, example.references).score for example in ENGLISH]
    assert list(Bleu().measure(ENGLISH).per_example) == expected


def test_a_short_perfect_answer_has_a_sentence_bleu_of_100() -> None:
    assert Bleu().measure([said("a pub", "a pub"), ENGLISH[0]]).per_example[0] == pytest.approx(100.0)


def test_bleu_tokenises_by_character_where_the_references_are_chinese() -> None:
    measured = Bleu().measure(CHINESE)
    streams = [[CHINESE[0].references[0], CHINESE[1].references[0]], [CHINESE[0].references[1], None]]
    direct = BLEU(tokenize="zh").corpus_score([example.prediction for example in CHINESE], streams)
    assert measured.values == {"bleu": direct.score}
    assert direct.score > 10
    assert "|tok:zh|" in measured.signature


def test_a_chinese_name_in_english_references_keeps_the_english_tokenizer() -> None:
    assert "|tok:13a|" in Bleu().measure([said("Visit 红叶.", "Visit 红叶 today, it is a pub.")]).signature


def test_chrf_is_sacrebleus_corpus_chrf() -> None:
    measured = Chrf().measure([ENGLISH[1], *CHINESE[1:]])
    units = [ENGLISH[1], CHINESE[1]]
    direct = sacrebleu.corpus_chrf([unit.prediction for unit in units], [[unit.references[0] for unit in units]])
    assert measured.values == {"chrf": direct.score}
    assert measured.signature.startswith("nrefs:1|")


@pytest.mark.parametrize("metric", [Bleu(), Chrf()], ids=["bleu", "chrf"])
def test_an_empty_prediction_scores_zero(metric: Bleu | Chrf) -> None:
    measured = metric.measure([said("", "a text")])
    assert measured.per_example == (0.0,)
    assert list(measured.values.values()) == [0.0]


@pytest.mark.parametrize("metric", [Bleu(), Chrf()], ids=["bleu", "chrf"])
def test_a_prompt_without_a_reference_is_refused_and_named(metric: Bleu | Chrf) -> None:
    with pytest.raises(DataError, match=r"prompt p7: .* needs a reference"):
        metric.measure([said("a", name="p7")])
