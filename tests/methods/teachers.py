"""Teachers of tiny models, and students that are attached beside them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tasks.methods import Source, Supplies, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import Settings, attached, save, token_batch, train
from tests.models.tiny import VOCABULARY, tiny_base

LORA: Settings = {"kind": "lora", "r": 4, "lora_dropout": 0.0}


def write_stranger(base: BaseModel, folder: Path) -> BaseModel:
    """The same function of the same texts as the base, over a vocabulary in which the words are numbered backwards."""
    shutil.copytree(base.path, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: at if at < 3 else VOCABULARY + 2 - at for word, at in words.items()}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding = model.get_input_embeddings().weight.data
    embedding[3:] = embedding[3:].flip(0)
    model.save_pretrained(folder)
    return tiny_base(folder)


def adapter_of(settings: Settings, base: BaseModel, folder: Path) -> Source:
    method, model = attached(settings, base, seed=9)
    train(model, 4)
    save(method, model, folder)
    stated = method.model_dump(mode="json")
    return Source(reference="r1", path=folder, digest="d", holds="adapter", method=stated, base_digest=base.digest)


def whole(model: BaseModel) -> Source:
    return Source(reference=model.name, path=model.path, digest=model.digest, holds="model", model=model)


def distilled(settings: Settings, base: BaseModel, teacher: Source | None = None) -> tuple[Any, nn.Module]:
    """Attached with its teacher; the student's weights are moved off their start."""
    named = {} if teacher is None else {"teacher": teacher.reference}
    method = parse_method({"kind": "distillation", "student": LORA, **named, **settings})
    supplies = Supplies({} if teacher is None else {"teacher": teacher}, base=base)
    model = load_base(base, quantization=method.quantization())
    torch.manual_seed(0)
    return method, method.attach(model, supplies).train()


def rows(tokens: int = 12, prompt: int = 4) -> dict[str, torch.Tensor]:
    ids = token_batch(tokens=tokens)
    labels = ids.clone()
    labels[:, :prompt] = -100
    labels[1, tokens - 2 :] = -100
    mask = torch.ones_like(ids)
    mask[1, tokens - 2 :] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def one_row(batch: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    return {name: value[row : row + 1] for name, value in batch.items()}
