"""Rates and decays of single tensors: by the layer, by the user's groups, by the method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from pydantic import ValidationError
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError
from tasks.models.values import BaseModel
from tasks.training.arguments import training_arguments
from tasks.training.checkpoints import Checkpoints
from tasks.training.groups import Rates, parameter_groups
from tasks.training.session import build_trainer
from tasks.training.settings import GroupSettings, TrainingSettings
from tests.training.worlds import LORA, QUICK, request_in, toy_cell, trained

RATES = Rates(learning_rate=1.0, weight_decay=0.1, scale=lambda _: 1.0)
BLOCKS = 3
FAMILIES: dict[str, tuple[Callable[[], nn.Module], str, str, list[str]]] = {
    "llama": (
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=BLOCKS, num_attention_heads=2
            )
        ),
        "model.layers.{}.",
        "lm_head.weight",
        ["model.embed_tokens.weight"],
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=BLOCKS, n_head=2)),
        "transformer.h.{}.",
        "transformer.ln_f.weight",
        ["transformer.wte.weight", "transformer.wpe.weight"],
    ),
    "gpt_neox": (
        lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=BLOCKS, num_attention_heads=2
            )
        ),
        "gpt_neox.layers.{}.",
        "lm_head.weight",
        ["gpt_neox.embed_in.weight"],
    ),
    "bloom": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=20, hidden_size=8, n_layer=BLOCKS, n_head=2)),
        "transformer.h.{}.",
        "transformer.ln_f.weight",
        ["transformer.word_embeddings.weight", "transformer.word_embeddings_layernorm.bias"],
    ),
    "opt": (
        lambda: OPTForCausalLM(
            OPTConfig(
                vocab_size=20,
                hidden_size=8,
                word_embed_proj_dim=8,
                ffn_dim=8,
                num_hidden_layers=BLOCKS,
                num_attention_heads=2,
                max_position_embeddings=8,
            )
        ),
        "model.decoder.layers.{}.",
        "model.decoder.final_layer_norm.weight",
        ["model.decoder.embed_tokens.weight", "model.decoder.embed_positions.weight"],
    ),
}


def rates_of(model: nn.Module, **settings: Any) -> dict[str, tuple[float, float]]:
    """Name of every trainable tensor -> its rate and its decay."""
    trainable = {name: part for name, part in model.named_parameters() if part.requires_grad}
    decaying = [name for name in trainable if "norm" not in name and "bias" not in name]
    groups = parameter_groups(model, RATES, GroupSettings(**settings), decaying)
    places = {id(part): (group["lr"], group["weight_decay"]) for group in groups for part in group["params"]}
    assert len(places) == len(trainable) == sum(len(group["params"]) for group in groups)
    return {name: places[id(part)] for name, part in trainable.items()}


def llama() -> nn.Module:
    return FAMILIES["llama"][0]()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_learns_more_slowly_the_lower_it_is_and_the_embeddings_most_slowly(family: str) -> None:
    build, block, behind, embeddings = FAMILIES[family]
    found = rates_of(build(), layerwise_lr_decay=0.5)
    for number in range(BLOCKS):
        own = {rate for name, (rate, _) in found.items() if name.startswith(block.format(number))}
        assert own == {0.5 ** (BLOCKS - number)}
    assert found[behind][0] == 1.0
    assert {found[name][0] for name in embeddings} == {0.5 ** (BLOCKS + 1)}
    assert min(rate for rate, _ in found.values()) == 0.5 ** (BLOCKS + 1)


def test_parameters_of_lora_in_pefts_naming_have_the_rate_of_their_block() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj", "embed_tokens"], task_type="CAUSAL_LM")
    found = rates_of(get_peft_model(llama(), config), layerwise_lr_decay=0.5)
    assert {name for name in found if "lora" not in name} == set()
    for number in range(BLOCKS):
        own = [rate for name, (rate, _) in found.items() if f".layers.{number}." in name]
        assert own == [0.5 ** (BLOCKS - number)] * 4
    assert [rate for name, (rate, _) in found.items() if "embed_tokens" in name] == [0.5 ** (BLOCKS + 1)] * 2


def test_the_power_counts_the_models_blocks_also_where_only_low_ones_train() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0], task_type="CAUSAL_LM")
    found = rates_of(get_peft_model(llama(), config), layerwise_lr_decay=0.5)
    assert {rate for rate, _ in found.values()} == {0.5**BLOCKS}


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_what_belongs_to_no_block_keeps_the_rate(kind: Any) -> None:
    model = get_peft_model(llama(), kind(num_virtual_tokens=2, task_type="CAUSAL_LM"))
    assert {rate for rate, _ in rates_of(model, layerwise_lr_decay=0.5).values()} == {1.0}


def test_a_model_that_numbers_no_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training\.layerwise_lr_decay: the model's parameters are not numbered"):
        rates_of(nn.Linear(2, 2), layerwise_lr_decay=0.5)


def test_a_group_changes_rate_and_decay_of_what_it_names_and_nothing_else() -> None:
    model = llama()
    plain = rates_of(model)
    groups = [{"parameters": r"layers\.1\.mlp", "learning_rate_scale": 4.0, "weight_decay": 0.3}]
    found = rates_of(model, parameter_groups=groups)
    named = {name for name in plain if "layers.1.mlp" in name}
    assert {found[name] for name in named} == {(4.0, 0.3)}
    assert {name: found[name] for name in found if name not in named} == {
        name: plain[name] for name in plain if name not in named
    }


def test_a_group_without_a_decay_keeps_it_and_one_with_a_decay_reaches_norms_too() -> None:
    model = llama()
    faster = rates_of(model, parameter_groups=[{"parameters": "layernorm|q_proj", "learning_rate_scale": 2.0}])
    assert {faster[f"model.layers.0.{name}.weight"] for name in ("input_layernorm",)} == {(2.0, 0.0)}
    assert faster["model.layers.0.self_attn.q_proj.weight"] == (2.0, 0.1)
    decayed = rates_of(model, parameter_groups=[{"parameters": "layernorm", "weight_decay": 0.5}])
    assert decayed["model.layers.0.input_layernorm.weight"] == (1.0, 0.5)


def test_factors_multiply_and_the_last_decay_wins() -> None:
    groups = [
        {"parameters": "layers", "learning_rate_scale": 2.0, "weight_decay": 0.3},
        {"parameters": r"layers\.2", "learning_rate_scale": 3.0, "weight_decay": 0.0},
    ]
    found = rates_of(llama(), parameter_groups=groups, layerwise_lr_decay=0.5)
    assert found["model.layers.2.mlp.up_proj.weight"] == (2.0 * 3.0 * 0.5, 0.0)
    assert found["model.layers.1.mlp.up_proj.weight"] == (2.0 * 0.25, 0.3)


def test_the_methods_own_factor_multiplies_too() -> None:
    model = llama()
    rates = Rates(2.0, 0.0, lambda name: 8.0 if "up_proj" in name else 1.0)
    groups = parameter_groups(model, rates, GroupSettings(layerwise_lr_decay=0.5), ())
    part = model.get_parameter("model.layers.2.mlp.up_proj.weight")
    (own,) = [group for group in groups if any(part is each for each in group["params"])]
    assert own["lr"] == 2.0 * 8.0 * 0.5


def test_a_group_that_matches_nothing_is_refused_with_a_name_as_an_example() -> None:
    settings = GroupSettings(parameter_groups=[{"parameters": "mlp"}, {"parameters": "lora_C"}])
    with pytest.raises(ConfigError, match=r"parameter_groups\[1\]: 'lora_C' matches none of the \d+ .*lm_head") as seen:
        parameter_groups(llama(), RATES, settings, ())
    assert seen.value.exit_code == 10


def test_a_group_does_not_match_what_is_frozen() -> None:
    model = llama()
    model.get_parameter("lm_head.weight").requires_grad_(False)
    with pytest.raises(ConfigError, match="matches none"):
        rates_of(model, parameter_groups=[{"parameters": "lm_head"}])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("layerwise_lr_decay", 0.0),
        ("layerwise_lr_decay", 1.5),
        ("parameter_groups", [{"parameters": "("}]),
        ("parameter_groups", [{"parameters": "a", "learning_rate_scale": 0}]),
        ("parameter_groups", [{"parameters": "a", "learning_rate": 1.0}]),
    ],
)
def test_values_that_cannot_be_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        GroupSettings(**{field: value})


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_nothing_set_the_groups_are_transformers_own(
    base: BaseModel, tokens: Artifact, tmp_path: Path, decay: float
) -> None:
    settings = QUICK.model_copy(update={"weight_decay": decay})
    ours, theirs = (
        optimizer_in(base, tokens, tmp_path / name, settings, own=own) for name, own in (("a", True), ("b", False))
    )
    assert ours == theirs
    assert {decay for _, decay in ours.values()} == {0.0, decay}


def test_the_optimiser_gets_the_groups(base: BaseModel, tokens: Artifact, tmp_path: Path) -> None:
    group = {"parameters": "lora_B", "learning_rate_scale": 4.0, "weight_decay": 0.25}
    settings = TrainingSettings.model_validate(
        QUICK.model_dump() | {"layerwise_lr_decay": 0.5, "parameter_groups": [group]}
    )
    found = optimizer_in(base, tokens, tmp_path, settings, method=LORA)
    blocks = base.facts.num_hidden_layers
    for name, (rate, decay) in found.items():
        number = int(name.split("layers.")[1].split(".")[0])
        factor = 4.0 if "lora_B" in name else 1.0
        assert rate == pytest.approx(1e-2 * 0.5 ** (blocks - number) * factor)
        assert decay == (0.25 if "lora_B" in name else 0.0)


@pytest.mark.parametrize(
    "change",
    [{"layerwise_lr_decay": 0.5}, {"parameter_groups": [{"parameters": "q_proj", "learning_rate_scale": 3.0}]}],
    ids=lambda change: next(iter(change)),
)
def test_each_of_the_settings_changes_the_weights(
    base: BaseModel, tokens: Artifact, tmp_path: Path, change: dict[str, Any]
) -> None:
    quick = QUICK.model_copy(update={"max_steps": 2})
    settings = TrainingSettings.model_validate(quick.model_dump() | change)
    plain, changed = (
        trained(request_in(tmp_path / name, toy_cell(base, tokens, LORA, each)))
        for name, each in (("plain", quick), ("changed", settings))
    )
    assert changed.weights_digest != plain.weights_digest


FULL = {"kind": "full", "learning_rate": 1e-3}


def optimizer_in(
    base: BaseModel,
    tokens: Artifact,
    folder: Path,
    settings: TrainingSettings,
    *,
    method: dict[str, Any] = FULL,
    own: bool = True,
) -> dict[str, tuple[float, float]]:
    """Name -> rate and decay in the optimiser that training would use; `own` False has transformers group by itself."""
    request = request_in(folder, toy_cell(base, tokens, method, settings))
    arguments = training_arguments(request.cell, folder)
    torch.manual_seed(0)
    trainer, _, _ = build_trainer(request, arguments, Checkpoints(folder / "checkpoints", {}, lambda: None))
    optimizer = trainer.create_optimizer() if own else super(type(trainer), trainer).create_optimizer()
    names = {id(part): name for name, part in trainer.model.named_parameters()}
    return {
        names[id(part)]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for part in group["params"]
    }
