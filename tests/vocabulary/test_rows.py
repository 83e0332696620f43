"""The new rows: where they lie, where they begin, and that they alone train."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from tasks.foundation.digests import digest_file
from tasks.foundation.errors import DivergenceError, IntegrityError
from tasks.models import BaseModel, read_header, weight_files
from tasks.models.loading import load_base
from tasks.vocabulary.extend import extend
from tasks.vocabulary.proof import prove_rows
from tasks.vocabulary.rows import NewRows, sequences
from tasks.vocabulary.weights import write_rows
from tests.vocabulary.worlds import base_in, extended, job_on, pieces_of, write_base

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TRAIN: dict[str, Any] = {"train": {"size": 12}}
STEPS: dict[str, Any] = TRAIN | {"steps": 12, "learning_rate": 0.05, "max_length": 32}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_in(write_base(tmp_path_factory.mktemp("tied") / "base"))


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return base_in(write_base(tmp_path_factory.mktemp("untied") / "base", tied=False))


def tensors(base: BaseModel) -> dict[str, torch.Tensor]:
    found = {}
    for file in weight_files(base.path):
        with safe_open(base.path / file, framework="pt") as opened:
            found |= {name: opened.get_tensor(name) for name in read_header(base.path / file)}
    return found


def test_a_new_row_is_the_mean_of_the_rows_of_its_parts_on_both_sides(untied: BaseModel, tmp_path: Path) -> None:
    more, report = extended(untied, tmp_path, **TRAIN)
    old, new = tensors(untied), tensors(more)
    for token in pieces_of(more):
        for name in (EMBEDDING, HEAD):
            mean = torch.stack([old[name][part] for part in token["parts"]]).mean(0)
            assert torch.allclose(new[name][token["id"]], mean, atol=1e-7)
    assert report.trained_tokens == 0 and report.loss_mean_start == report.loss_trained


def test_tied_embeddings_stay_one_tensor_and_untied_ones_two(
    tied: BaseModel, untied: BaseModel, tmp_path: Path
) -> None:
    one, _ = extended(tied, tmp_path / "tied", **STEPS)
    two, _ = extended(untied, tmp_path / "untied", **STEPS)
    assert HEAD not in tensors(one) and one.facts.tie_word_embeddings
    assert json.loads((one.path / "config.json").read_text())["tie_word_embeddings"] is True
    model = load_base(one)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    stored = tensors(two)
    assert stored[EMBEDDING].shape == stored[HEAD].shape == (284, 32) and not two.facts.tie_word_embeddings
    assert not torch.equal(stored[EMBEDDING][272:], stored[HEAD][272:])


def test_a_tied_output_layer_that_was_stored_twice_is_stored_once(tied: BaseModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = write_base(tmp_path / "base")
    stored = tensors(base_in(folder))
    save_file(stored | {HEAD: stored[EMBEDDING].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    more, _ = extended(base_in(folder), tmp_path, **TRAIN)
    assert HEAD not in tensors(more)
    assert torch.equal(tensors(more)[EMBEDDING][:272], stored[EMBEDDING])


@pytest.mark.parametrize("spare", [0, 5, 20])
def test_spare_rows_are_taken_first_and_the_rest_is_appended(spare: int, tmp_path: Path) -> None:
    base = base_in(write_base(tmp_path / "base", spare_rows=spare))
    more, report = extended(base, tmp_path, **STEPS)
    assert report.first_id == 272 and report.reused_rows == min(spare, 12)
    assert report.vocab_size == more.facts.vocab_size == 272 + max(spare, 12)
    assert json.loads((more.path / "config.json").read_text())["vocab_size"] == report.vocab_size
    old, new = tensors(base)[EMBEDDING], tensors(more)[EMBEDDING]
    assert torch.equal(new[:272], old[:272]) and torch.equal(new[284:], old[284:])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_tied", [True, False])
def test_only_the_new_rows_train_and_every_other_number_keeps_its_bits(
    dtype: str, is_tied: bool, tmp_path: Path
) -> None:
    base = base_in(write_base(tmp_path / "base", tied=is_tied, dtype=dtype))
    start, _ = extended(base, tmp_path / "start", **TRAIN)
    more, report = extended(base, tmp_path / "trained", **STEPS)
    old, begun, new = tensors(base), tensors(start), tensors(more)
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        assert tensor.dtype == old[name].dtype == getattr(torch, dtype)
        assert torch.equal(tensor[: len(old[name])], old[name])
        if name in (EMBEDDING, HEAD):
            moved = (tensor[272:] != begun[name][272:]).any(dim=1)
            assert moved.any() if name == EMBEDDING and not is_tied else moved.all()  # a row is read where it occurs
    assert report.loss_trained < report.loss_mean_start - 0.5


def test_the_gradient_of_a_new_row_is_that_of_the_whole_embedding(tied: BaseModel, tmp_path: Path) -> None:
    """Against plain autograd on the model itself, tied: a row is read at the input and scored at the output."""
    more, report = extended(tied, tmp_path, **TRAIN)
    ids = torch.tensor([[5, report.first_id, 7, report.first_id + 3, 9]])
    plain = load_base(more)
    logits = plain(input_ids=ids).logits
    functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
    whole = plain.get_input_embeddings().weight.grad
    rows = NewRows(load_base(more), report.first_id, report.new_tokens)
    again = rows(ids, torch.ones_like(ids))
    assert torch.equal(again, logits)
    functional.cross_entropy(again[0, :-1], ids[0, 1:]).backward()
    assert rows.embedding.grad is not None
    assert torch.allclose(rows.embedding.grad, whole[report.first_id :], atol=1e-7)
    assert [name for name, _ in rows.named_parameters()] == ["embedding"]


def test_the_same_extension_twice_gives_the_same_bytes_whatever_the_process_did_before(
    untied: BaseModel, tmp_path: Path
) -> None:
    one, _ = extended(untied, tmp_path / "one", **STEPS)
    torch.manual_seed(99)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    try:
        two, _ = extended(untied, tmp_path / "two", **STEPS)
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(1)
    digests = [{path.name: digest_file(path) for path in base.path.iterdir()} for base in (one, two)]
    assert digests[0] == digests[1]
    texts = [path.read_text(encoding="utf-8") for path in one.path.glob("*.json*")]
    assert not any(str(tmp_path) in text or str(untied.path) in text for text in texts)


def test_the_rows_train_on_one_thread_with_deterministic_algorithms(tied: BaseModel, tmp_path: Path) -> None:
    job = job_on(tied, tmp_path / "texts", **STEPS)
    seen = []
    torch.set_num_threads(2)
    try:
        (tmp_path / "out").mkdir()
        extend(
            job,
            tmp_path / "out",
            lambda step, total, loss: seen.append(
                (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
            ),
        )
    finally:
        torch.set_num_threads(1)
    assert seen == [(1, True)] * 12


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"learning_rate": 0.01}, {"steps": 11}, {"batch_size": 2}, {"max_length": 16}]
)
def test_each_setting_of_the_training_changes_the_rows_and_nothing_else(
    change: dict[str, Any], tied: BaseModel, tmp_path: Path
) -> None:
    one, _ = extended(tied, tmp_path / "one", **STEPS)
    two, _ = extended(tied, tmp_path / "two", **STEPS | change)
    changed = [name for name, tensor in tensors(one).items() if not torch.equal(tensor, tensors(two)[name])]
    assert changed == [EMBEDDING]
    assert digest_file(one.path / "tokenizer.json") == digest_file(two.path / "tokenizer.json")


def test_the_default_rate_is_a_twentieth_of_the_embeddings_root_mean_square(tied: BaseModel, tmp_path: Path) -> None:
    _, report = extended(tied, tmp_path, **TRAIN, steps=1)
    expected = 0.05 * tensors(tied)[EMBEDDING].pow(2).mean().sqrt()
    assert report.learning_rate == pytest.approx(float(expected))


def test_a_loss_that_is_not_finite_ends_the_step(tied: BaseModel, tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"Lower model\.extend_vocabulary\.learning_rate"):
        extended(tied, tmp_path, **STEPS | {"learning_rate": 1e30})


def test_shards_stay_shards_and_those_without_rows_are_copied(tmp_path: Path) -> None:
    base = base_in(write_base(tmp_path / "base", tied=False, max_shard_size="30KB"))
    more, _ = extended(base, tmp_path, **STEPS)
    assert weight_files(more.path) == weight_files(base.path) and len(weight_files(base.path)) > 2
    same = [name for name in weight_files(base.path) if digest_file(more.path / name) == digest_file(base.path / name)]
    assert same
    index = json.loads((more.path / "model.safetensors.index.json").read_text())
    sizes = [tensor.size_bytes for file in weight_files(more.path) for tensor in read_header(more.path / file).values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    load_base(more)


def test_an_old_row_that_moved_is_noticed(tied: BaseModel, tmp_path: Path) -> None:
    more, report = extended(tied, tmp_path, **TRAIN)
    write_rows(more.path, {EMBEDDING: tensors(more)[EMBEDDING][:1] + 1}, 271)
    with pytest.raises(IntegrityError, match=f"{EMBEDDING} is not what it was"):
        prove_rows(tied, base_in(more.path), report.first_id, report.new_tokens)


def test_texts_are_laid_end_to_end_with_an_end_token_each(tied: BaseModel) -> None:
    from tasks.models.loading import load_tokenizer

    tokenizer = load_tokenizer(tied)
    found = sequences(["the cat", "a dog"], tokenizer, 4)
    flat = [*tokenizer("the cat")["input_ids"], 271, *tokenizer("a dog")["input_ids"], 271]
    assert [token for piece in found for token in piece] == flat[: sum(map(len, found))]
    assert all(1 < len(piece) <= 4 for piece in found)


def test_the_loss_per_character_compares_the_extended_base_with_the_base(tied: BaseModel, tmp_path: Path) -> None:
    """Both of them on the same texts, held out: summed nats over characters."""
    from tasks.models.loading import load_tokenizer
    from tests.vocabulary.worlds import TEXTS

    _, report = extended(tied, tmp_path, **STEPS | {"max_length": 128})
    held = TEXTS[::10]
    stream = [token for text in held for token in [*load_tokenizer(tied)(text)["input_ids"], 271]]
    with torch.no_grad():
        total = 0.0
        for start in range(0, len(stream), 128):
            ids = torch.tensor([stream[start : start + 128]])
            total += float(load_base(tied)(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    assert report.held_out_texts == len(held) == 2 and report.texts == 10
    assert report.nats_per_character_base == pytest.approx(total / sum(map(len, held)), rel=1e-4)
    assert report.nats_per_character_trained < report.nats_per_character_mean_start
