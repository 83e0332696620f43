"""On a really trained Llama of 260,032 parameters and a domain that it never saw: E2E, restaurants in English."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.vocabulary.worlds import base_in, extended, pieces_of

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODEL, ROWS = SHARED / "models" / "stories260k", SHARED / "data" / "e2e_nlg" / "devset.csv"


@pytest.mark.skipif(
    not (MODEL.is_dir() and ROWS.is_file()), reason="the real model and data are not beside the project"
)
def test_200_tokens_of_a_domain_halve_its_texts_and_training_their_rows_halves_the_loss(tmp_path: Path) -> None:
    with ROWS.open(encoding="utf-8-sig", newline="") as file:
        texts = list(dict.fromkeys(row["ref"] for row in csv.DictReader(file)))[::8]
    settings = {"train": {"size": 200}, "steps": 40, "learning_rate": 0.03, "max_length": 64}
    more, report = extended(base_in(MODEL), tmp_path, texts=texts, **settings)
    assert report.tokens_per_character_after < 0.55 * report.tokens_per_character_before
    assert report.loss_trained < 0.75 * report.loss_mean_start
    assert report.nats_per_character_trained < 0.75 * report.nats_per_character_base
    assert {"▁restaurant", "▁riverside"} <= {token["piece"] for token in pieces_of(more)}
    assert more.facts.vocab_size == 712 and more.facts.tie_word_embeddings
