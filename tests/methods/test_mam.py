"""MAM: PEFT's prefix and a parallel adapter, one against PEFT, the other against its formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.evaluation.loaded import prompt_learning_config
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Conditions, Source, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tests.methods.cases import attached, logits, save, train
from tests.methods.test_bottleneck import answer
from tests.models.families import HIDDEN, LAYERS, tiny_model, tiny_tokens

SMALL = {"kind": "mam_adapter", "num_virtual_tokens": 3, "bottleneck_size": 5}


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for part in model.parameters():
        if part.requires_grad:
            part.data = torch.randn(part.shape, generator=generator) * 0.3
    return model.eval()


def trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in model.named_parameters() if part.requires_grad}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("projection", [True, False])
def test_it_is_pefts_prefix_with_the_papers_adapter_beside_each_feed_forward_network(
    tmp_path: Path, family: str, projection: bool
) -> None:
    method = parse_method({**SMALL, "prefix_projection": projection})
    model = shaken(method.attach(tiny_model(family)))
    method.save(model, tmp_path, trainable(model))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    base = tiny_model(family)
    for block, start in _mlps(base, family):
        weights = [
            tensors[f"{start}.adapter.ffn.{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
        ]
        block.mlp.register_forward_hook(lambda _, u, out, weights=weights: out + 4 * answer(weights, u[0]))
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, inference_mode=True)
    expected = get_peft_model(base, config)
    expected.prompt_encoder["default"].embedding.weight.data = tensors["prompt_embeddings"]
    ids = tiny_tokens()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected.eval()(ids).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(method.load(tiny_model(family), tmp_path)(ids).logits, expected(ids).logits) or projection


def _mlps(base: nn.Module, family: str) -> list[tuple[nn.Module, str]]:
    path = {"llama": "model.layers", "gpt2": "transformer.h"}[family]
    return [(block, f"{path}.{index}") for index, block in enumerate(base.get_submodule(path))]


def test_parameters_are_those_of_a_prefix_and_a_parallel_adapter() -> None:
    counts = {
        projection: sum(part.numel() for part in trainable(parse_method(settings).attach(tiny_model("gpt2"))).values())
        for projection in (True, False)
        for settings in ({**SMALL, "prefix_projection": projection},)
    }
    adapter = LAYERS * (2 * HIDDEN * 5 + 5 + HIDDEN)
    assert counts[False] == adapter + 3 * LAYERS * 2 * HIDDEN
    assert counts[True] == adapter + 3 * HIDDEN + (HIDDEN * HIDDEN + HIDDEN) + (HIDDEN + 1) * LAYERS * 2 * HIDDEN


def test_the_usual_sizes_are_the_papers() -> None:
    method: Any = parse_method({"kind": "mam_adapter"})
    assert method.num_virtual_tokens == 30
    wide, narrow = tiny_model("llama", hidden_size=1024), tiny_model("llama")
    assert [method._shape(model).size for model in (wide, narrow)] == [512, HIDDEN]
    assert (method._shape(wide).variant, method._shape(wide).scaling) == ("parallel", 4.0)


@pytest.mark.parametrize("settings", [{"scaling": 1.0}, {"non_linearity": "tanh"}])
def test_what_shapes_the_adapter_changes_the_answer(settings: dict[str, Any]) -> None:
    made = [shaken(parse_method({**SMALL, **more}).attach(tiny_model("llama"))) for more in ({}, settings)]
    with torch.no_grad():
        one, other = (model(tiny_tokens()).logits for model in made)
    assert not torch.allclose(one, other)


def test_dropout_is_on_the_adapters_inner_activations_while_training() -> None:
    model = shaken(parse_method({**SMALL, "dropout": 0.5}).attach(tiny_model("llama")))
    with torch.no_grad():
        quiet, again = model(tiny_tokens()).logits, model(tiny_tokens()).logits
        assert torch.equal(quiet, again)
        assert not torch.allclose(model.train()(tiny_tokens()).logits, quiet)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"gradient_checkpointing": True}, r"training\.gradient_checkpointing: false"),
        ({"packing": True}, "data.packing: false"),
        ({"max_seq_length": 50}, r"num_virtual_tokens \(30\) \+ max_seq_length \(50\) exceed.*at most 14"),
    ],
)
def test_what_a_prefix_cannot_do_is_refused_before_the_model_is_loaded(
    base: BaseModel, conditions: dict[str, Any], message: str
) -> None:
    given = {"gradient_checkpointing": False, "packing": False, "max_seq_length": 16, **conditions}
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "mam_adapter"}).check(base.facts, Conditions.model_validate(given))


def test_the_evaluation_counts_its_virtual_tokens(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(SMALL, base)
    train(model)
    save(method, model, tmp_path)
    loaded = method.load(load_base(base), tmp_path)
    assert prompt_learning_config(loaded).num_virtual_tokens == 3
    assert torch.equal(_generated(loaded), _generated(model.eval()))


def _generated(model: nn.Module) -> Tensor:
    model.config.use_cache = True
    made: Tensor = model.generate(
        input_ids=tiny_tokens(), attention_mask=torch.ones_like(tiny_tokens()), max_new_tokens=5, do_sample=False
    )
    return made


def test_training_goes_on_from_the_finished_prefix_where_none_is_projected(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(SMALL, base)
    train(model)
    save(method, model, tmp_path)
    source = Source(reference="run-1", path=tmp_path, digest="d", holds="adapter", method=method.model_dump())
    plain, other = attached({**SMALL, "prefix_projection": False}, base, seed=3)
    plain.start_from(other, source)
    torch.testing.assert_close(logits(other), logits(model))
    with pytest.raises(ConfigError, match="prefix_projection: false"):
        method.start_from(model, source)
    longer, more = attached({**SMALL, "num_virtual_tokens": 4}, base)
    with pytest.raises(ConfigError, match=r"run-1 has num_virtual_tokens 3, these settings give 4\..*init_from"):
        longer.start_from(more, source)


def test_a_folder_without_its_prefix_is_refused(base: BaseModel, tmp_path: Path) -> None:
    method, model = attached(SMALL, base)
    tensors = trainable(model)
    save(method, model, tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.partition(".")[0] for name in stored} == {"model", "prompt_embeddings"}
    assert len(tensors) > len(stored)
    from safetensors.torch import save_file

    save_file(
        {name: part for name, part in stored.items() if name != "prompt_embeddings"},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(IntegrityError, match="does not fit the base: prompt_encoder"):
        method.load(load_base(base), tmp_path)


def test_the_adapter_may_stand_in_some_blocks_alone(base: BaseModel) -> None:
    _, model = attached({**SMALL, "layers_to_transform": [1]}, base)
    assert {name.split(".layers.")[1][0] for name in trainable(model) if ".adapter." in name} == {"1"}
    with pytest.raises(ConfigError, match=r"no block 2\. Allowed: 0 to 1"):
        given = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
        parse_method({**SMALL, "layers_to_transform": [2]}).check(base.facts, given)
