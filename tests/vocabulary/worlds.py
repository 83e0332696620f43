"""Tiny Llamas with a tokenizer of each sort, a text to extend them with, and the extension itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.models import BaseModel, ModelSettings, VocabularyExtension, resolve_base
from tasks.vocabulary import ExtensionJob, VocabularyReport
from tasks.vocabulary.extend import extend
from tests.models.tiny import write_tiny_llama

SORTS = ("byte-level", "sentencepiece", "unigram", "words")
OLD_TEXTS = [
    "the cat sat on the mat",
    "a dog ran to the old man",
    "the man had a red hat",
    "the cat ran to the dog",
] * 3
TEXTS = [
    f"the Wildwood café is near the riverside, {price} £ for w{number}" for number in range(3, 9) for price in (9, 20)
]


def write_base(
    folder: Path, sort: str = "byte-level", *, tied: bool = True, spare_rows: int = 0, **saving: Any
) -> Path:
    """A two-layer Llama; the embedding has `spare_rows` more rows than the tokenizer has tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    if sort == "words":
        return write_tiny_llama(folder, tied=tied)
    tokenizer = _TOKENIZERS[sort]()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + spare_rows,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    dtype = getattr(torch, saving.pop("dtype", "float32"))
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder, **saving)
    return folder


def _byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2, Llama 3 and Qwen: bytes, merges, and special tokens behind the model's own vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        OLD_TEXTS, trainers.BpeTrainer(vocab_size=270, initial_alphabet=alphabet, show_progress=False)
    )
    return _fast(tokenizer)


def _sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 1 and 2: spaces as ▁, one in front of every text, characters that it lacks in bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzRW,.'"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("a", "t"), ("▁", "r"), ("o", "o"), ("▁", "s")]
    words = [*pieces, *letters, *("".join(pair) for pair in merges)]
    model = models.BPE({piece: at for at, piece in enumerate(words)}, merges, unk_token="<unk>", byte_fallback=True)  # noqa: S106
    model.fuse_unk = True
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(tokenizer)


def _unigram() -> PreTrainedTokenizerFast:
    """As T5 and XGLM: pieces with scores."""
    letters = {f"{letter}": -6.0 - at / 100 for at, letter in enumerate("▁abcdefghijklmnopqrstuvwxyzRW,.'")}
    scored = [("<unk>", 0.0), *letters.items(), ("▁the", -2.0), ("at", -3.0), ("▁a", -3.5), ("an", -4.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="first")
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        clean_up_tokenization_spaces=False,
    )


_TOKENIZERS = {"byte-level": _byte_level, "sentencepiece": _sentencepiece, "unigram": _unigram}


def base_in(folder: Path) -> BaseModel:
    return resolve_base(ModelSettings(name_or_path=str(folder)))


def job_on(base: BaseModel, folder: Path, texts: list[str] = TEXTS, **settings: Any) -> ExtensionJob:
    """An extension of the base; its texts lie in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "text.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    wanted = VocabularyExtension.model_validate({"text": str(path), "steps": 0} | settings)
    return ExtensionJob(base=base, settings=wanted, rows=folder / "train.jsonl", rows_digest="d", device="cpu")


def extended(base: BaseModel, folder: Path, **settings: Any) -> tuple[BaseModel, VocabularyReport]:
    """The extended base, and what is said of it."""
    job = job_on(base, folder / "texts", **settings)
    out = folder / "extended"
    out.mkdir()
    report = extend(job, out, lambda *_: None)
    return base_in(out), report


def pieces_of(base: BaseModel) -> list[dict[str, Any]]:
    """The new tokens, as the artifact lists them."""
    lines = (base.path / "new_tokens.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]
