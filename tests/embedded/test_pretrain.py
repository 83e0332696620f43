"""Pretraining, with a budget of a few steps."""

from pathlib import Path

import pytest
import torch

from tasks.embedded import PretrainBudget
from tasks.embedded.pretrain import build_base
from tasks.foundation.digests import digest_file

TINY = PretrainBudget(
    documents=300,
    vocab_size=512,
    hidden_size=64,
    intermediate_size=64,
    layers=2,
    heads=2,
    copy_steps=3,
    text_steps=4,
    text_length=64,
)
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_file(path) for path in folder.iterdir()}


def built(folder: Path, budget: PretrainBudget = TINY) -> Path:
    folder.mkdir()
    build_base(folder, lambda step, total, loss: None, budget)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("embedded") / "base")


def test_two_builds_have_the_same_bytes_whatever_the_process_did_before(base: Path, tmp_path: Path) -> None:
    torch.manual_seed(1234)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = built(tmp_path / "again")
    finally:
        torch.set_num_threads(threads)
    assert digests(base).keys() == FILES
    assert digests(again) == digests(base)


def test_another_seed_gives_other_weights_and_the_same_tokenizer(base: Path, tmp_path: Path) -> None:
    other = digests(built(tmp_path / "other", TINY.model_copy(update={"seed": 1})))
    assert {name for name in FILES if other[name] != digests(base)[name]} == {"model.safetensors"}


def test_building_leaves_torch_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = (torch.rand(1, generator=torch.Generator().manual_seed(7)), torch.get_num_threads())
    built(tmp_path / "base")
    assert (torch.rand(1), torch.get_num_threads()) == expected
    assert not torch.are_deterministic_algorithms_enabled()


def test_every_step_is_reported_with_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    build_base(tmp_path, lambda step, total, loss: seen.append((step, total)), TINY)
    assert seen == [(step, 7) for step in range(1, 8)]


def test_transformers_loads_the_base_with_its_tokenizer_and_generates(base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.tie_word_embeddings
    assert len(tokenizer) == model.config.vocab_size == 512
    settings = model.generation_config
    assert (settings.pad_token_id, settings.bos_token_id, settings.eos_token_id) == (0, 1, 2)
    answer = model.generate(**tokenizer("Notes:", return_tensors="pt"), do_sample=False, max_new_tokens=4)
    assert tokenizer.decode(answer[0], skip_special_tokens=True).startswith("Notes:")


def test_training_teaches_where_a_document_ends(base: Path, tmp_path: Path) -> None:
    longer = built(tmp_path / "longer", TINY.model_copy(update={"text_steps": 40}))
    assert end_probability(longer) > 3 * end_probability(base)


def end_probability(folder: Path) -> float:
    """Mean probability of the end token after a whole answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = ["Say Golden Fox. Golden Fox.", "请说金色花园。金色花园。", "It is a cold night. The bag of Ida is red."]
    with torch.no_grad():
        ends = [model(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)[2] for text in texts]
    return float(sum(ends)) / len(ends)
