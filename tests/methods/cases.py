"""One table of cases for the contract that every method keeps: all discovered methods, and their variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from tasks.methods import INIT_FROM, Method, Moment, Supplies, Window, all_methods, base_quantization, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.training.shards import gather
from tests.methods.sources import sources_of
from tests.models.tiny import token_batch

Settings = Mapping[str, Any]

NEEDED: Mapping[str, Settings] = {
    "adapter_fusion": {"adapters": ["one", "two"]},
    "peft_config": {"config": {"peft_type": "LORA", "r": 4, "target_modules": "all-linear"}},
}
"""Kind -> settings without a default; sources are named by a key of `tests.methods.sources.MADE_BY`."""

BIASED = ("bitfit",)
"""Kinds that are tested on a Llama with biases, since they train nothing else."""

VARIANTS: tuple[Settings, ...] = (
    {"kind": "distillation", "student": {"kind": "full"}},
    {"kind": "freeze", "num_layers": 0, "modules": ["mlp.down_proj"]},
    {"kind": "freeze", "num_layers": 0, "head": True},
    {"kind": "lora", "r": 4, "use_dora": True},
    {"kind": "lora", "r": 4, "use_rslora": True, "init_lora_weights": "gaussian"},
    {"kind": "lora", "r": 4, "init_lora_weights": "orthogonal", "target_modules": r".*self_attn\.[qv]_proj"},
    {"kind": "lora", "r": 4, "layers_to_transform": [1]},
    {"kind": "lora", "r": 4, "init_lora_weights": "pissa", "loraplus_lr_ratio": 4},
    {"kind": "lora", "r": 6, "init_lora_weights": "pissa_niter_4", "use_rslora": True, "lora_alpha": 7},
    {"kind": "lora", "r": 4, "init_lora_weights": "olora", "layers_to_transform": [1]},
    {"kind": "lora", "r": 4, "init_lora_weights": "corda"},
    {"kind": "lora", "r": 4, "init_lora_weights": "eva", "use_dora": True},
    {"kind": "qlora", "r": 4, "use_dora": True},
    {"kind": "qlora", "r": 4, "init_lora_weights": "loftq", "lora_alpha": 8},
    {"kind": "ia3", "target_modules": ["v_proj", "up_proj"], "feedforward_modules": []},
    {"kind": "progressive_shrinking", "r": 8, "ranks": [8, 2], "depths": [2, 1]},
    {"kind": "pruning", "scope": "global", "amount": 0.3},
    {"kind": "pruning", "structure": "structured", "r": 8},
    {"kind": "prompt_tuning", "prompt_tuning_init": "RANDOM", "num_virtual_tokens": 5},
    {"kind": "prompt_tuning", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w5 w6 w7"},
    {"kind": "prefix_tuning", "prefix_projection": False},
    {"kind": "prefix_tuning", "encoder_hidden_size": 16},
    {"kind": "p_tuning", "encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 16},
    {"kind": "adapter", "variant": "pfeiffer", "reduction_factor": 8, "non_linearity": "gelu"},
    {"kind": "adapter", "variant": "parallel", "bottleneck_size": 8, "init": "identity", "layers_to_transform": [1]},
    {"kind": "adapter", "bottleneck_size": 8, "train_layer_norms": True, "non_linearity": "tanh"},
    {"kind": "adapter", "bottleneck_size": 8, "bias": False, "non_linearity": "identity"},
    {"kind": "adapter_drop", "mode": "specialised", "drop": 1, "variant": "houlsby"},
    {"kind": "adapter_fusion", "adapters": ["one", "two"], "form": "low_rank", "rank": 8},
    {"kind": "adapter_fusion", "adapters": ["one", "two"], "form": "no_value"},
    {"kind": "mam_adapter", "bottleneck_size": 8, "prefix_projection": False, "layers_to_transform": [1]},
    {"kind": "bitfit", "modules": ["mlp.down_proj", "self_attn.q_proj"]},
    {"kind": "llama_adapter", "adapter_len": 3, "adapter_layers": 1},
    {"kind": "p_tuning_v2", "num_virtual_tokens": 3},
)


def trainable_cases() -> list[Settings]:
    """The settings of every method that trains: its defaults, then its variants."""
    kinds = [str(method.model_fields["kind"].default) for method in all_methods() if method.info.holds != "nothing"]
    return [minimal(kind) for kind in kinds] + [case for case in VARIANTS if case["kind"] in kinds]


def minimal(kind: str) -> Settings:
    """The method with its defaults."""
    return {"kind": kind, **NEEDED.get(kind, {})}


def without_dropout(settings: Settings) -> Settings:
    """The case with nothing left to chance in a forward pass, nor in that of a method inside it."""
    return _calm(parse_method(settings).model_dump(mode="json"))


def _calm(settings: Settings) -> Settings:
    inner = {name: _calm(value) for name, value in settings.items() if isinstance(value, dict)}
    return {**settings, **inner, **{name: 0.0 for name in settings if name.endswith("dropout")}}


def case_name(settings: Settings) -> str:
    return "-".join(str(value) for value in settings.values())


def attached(settings: Settings, base: BaseModel, seed: int = 0) -> tuple[Method, nn.Module]:
    """The method on a freshly loaded base, seeded before the adapter is made, ready to train."""
    method = parse_method(settings)
    return method, attach(method, unattached(method, base), base, seed)


def unattached(method: Method, base: BaseModel) -> nn.Module:
    """The base as the method wants it to be loaded."""
    return load_base(base, quantization=base_quantization(method, base.quantization))


def attach(method: Method, model: nn.Module, base: BaseModel, seed: int = 0) -> nn.Module:
    """The method on a loaded base, with all that a training session gives it."""
    given = supplies(method, base, seed)  # before the seed: what has to be made draws numbers
    torch.manual_seed(seed)
    model = method.attach(model, given)
    if INIT_FROM in given.sources:
        method.start_from(model, given.sources[INIT_FROM])
    return model.train()


def supplies(method: Method, base: BaseModel, seed: int = 0) -> Supplies:
    """All that a training session has for the method, its sources made where they are not there yet."""
    return Supplies(sources_of(method, base), batches, seed, base)


def batches() -> Iterator[dict[str, torch.Tensor]]:
    """Rows to calibrate with, as a training session supplies them."""
    for rows in token_batch(rows=6).split(2):
        yield features(rows)


def features(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a model is given in training: every token but the first is learnt."""
    labels = ids.clone()
    labels[:, 0] = -100  # as in tokenised rows: behind a soft prompt even the first token would be predicted
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def train(model: nn.Module, steps: int = 3, method: Method | None = None, rate: float = 1e-2) -> None:
    """AdamW steps on the same tokens every time; with a method, its hooks, its loss and its rates as in a session."""
    hooks = method or parse_method({"kind": "none"})
    fit(hooks, model, features(token_batch()), [rate] * steps)


def fit(method: Method, model: nn.Module, inputs: dict[str, torch.Tensor], rates: list[float]) -> None:
    """One AdamW step on the same rows per rate."""
    parts = {name: part for name, part in model.named_parameters() if part.requires_grad}
    optimizer = torch.optim.AdamW(
        [{"params": [part], "scale": method.learning_rate_scale(name)} for name, part in parts.items()]
    )
    window = Window(items=(inputs["labels"][:, 1:] >= 0).sum(), micro_batches=1)
    for step, rate in enumerate(rates, start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        moment = Moment(step=step, total_steps=len(rates), seed=0)
        method.before_step(model, moment)
        own = method.training_loss(model, inputs, window)
        (model(**inputs).loss if own is None else own.total).backward()
        optimizer.step()
        method.after_optimizer_step(model, moment)
        optimizer.zero_grad()


def save(method: Method, model: nn.Module, folder: Path) -> None:
    """Save what trained, as the end of training does."""
    method.save(model, folder, gather(model, frozen=method.holds == "model"))


def loss(model: nn.Module) -> torch.Tensor:
    value: torch.Tensor = model(**features(token_batch())).loss
    return value


def logits(model: nn.Module) -> torch.Tensor:
    """[rows, tokens, vocabulary] in eval mode, without those of virtual tokens."""
    ids = token_batch()
    with torch.no_grad():
        out: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return out[:, -ids.shape[1] :]


def toy() -> torch.Tensor:
    """[4, 16]: four tokens over and over, each row from another one on."""
    period = torch.tensor([11, 52, 93, 34])
    return torch.stack([period.roll(shift).repeat(4) for shift in range(4)])


def true_loss(model: nn.Module, ids: torch.Tensor) -> float:
    """Cross-entropy per token in nats, from the logits, in eval mode."""
    with torch.no_grad():
        predicted = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] : -1]
    model.train()
    return float(cross_entropy(predicted.reshape(-1, predicted.shape[-1]), ids[:, 1:].reshape(-1)))
