"""A tiny random model with a byte tokenizer, the real tiny one where it lies beside the project, and jobs on them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.artifacts import Artifact, seal
from tasks.data.prepare import prepare, read_prepared
from tasks.data.settings import DataSettings
from tasks.data.templates import Renderer
from tasks.data.tokenize import read_tokenized, tokenize
from tasks.evaluation import EvaluationJob, EvaluationSettings
from tasks.evaluation.loaded import Loaded, prompt_learning_config
from tasks.methods import Candidate
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.models.loading import load_base, load_tokenizer

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
STORIES = SHARED / "models" / "stories260k"
E2E_DEV = SHARED / "data" / "e2e_nlg" / "devset.csv"
needs_stories = pytest.mark.skipif(not STORIES.is_dir(), reason="the tiny real model is not beside the project")
needs_e2e = pytest.mark.skipif(not E2E_DEV.is_file(), reason="the E2E data are not beside the project")

END = "</s>"
PLAIN = DataSettings(train="unused.csv", max_seq_length=96)
CONTEXT = 160
VIRTUAL_TOKENS = 6

ADAPTERS: dict[str, Any] = {
    "lora": lambda: LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False),
    "ia3": lambda: IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False),
    "prompt_tuning": lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
    "p_tuning": lambda: PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS, encoder_hidden_size=32
    ),
    "prefix_tuning": lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS),
}


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Two layers, hidden 64, one token per byte and an end token; without a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, END])}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END).save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        eos_token_id=256,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def base_in(folder: Path) -> BaseModel:
    return resolve_base(ModelSettings(name_or_path=str(folder)))


def untuned(base: BaseModel) -> Candidate:
    return Candidate(label="none", base=base, method={"kind": "none"}, holds="nothing")


def load_kind(base: BaseModel, kind: str, data: DataSettings = PLAIN) -> Loaded:
    """The base, or the base with a random adapter of this kind that changes its answers."""
    model: nn.Module = load_base(base)
    if kind != "none":
        torch.manual_seed(1)
        model = get_peft_model(model, ADAPTERS[kind]()).eval()
        for parameter in model.parameters():
            if parameter.requires_grad and kind == "prefix_tuning":
                parameter.data.normal_(0, 0.5)
    return loaded_from(model, base, data)


def loaded_from(model: nn.Module, base: BaseModel, data: DataSettings = PLAIN) -> Loaded:
    tokenizer = load_tokenizer(base)
    soft = prompt_learning_config(model)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        renderer=Renderer(tokenizer, data),
        device="cpu",
        context=base.facts.max_position_embeddings,
        virtual_tokens=soft.num_virtual_tokens if soft else 0,
    )


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "completion"), *rows])
    return path


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def job_on(base: BaseModel, data: DataSettings, settings: EvaluationSettings, folder: Path) -> EvaluationJob:
    """Run the two data steps in a folder, for the untuned base."""
    prepared_in, tokens_in = folder / "prepare", folder / "tokenize"
    prepared_in.mkdir(parents=True)
    tokens_in.mkdir()
    prepare(data, prepared_in)
    prepared = read_prepared(_sealed("prepare", prepared_in))
    tokenize(prepared, base, data, tokens_in)
    tokens = read_tokenized(_sealed("tokenize", tokens_in))
    return EvaluationJob(candidate=untuned(base), prepared=prepared, tokens=tokens, settings=settings, data=data)


def _sealed(step: str, folder: Path) -> Artifact:
    manifest = seal(folder, kind=step, key="k")
    return Artifact(step=step, key="k", path=folder, digest=manifest.digest)


def ignore_progress(done: int, total: int) -> None:
    """A report that nobody reads."""
