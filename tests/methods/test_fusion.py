"""AdapterFusion against its formula, written out with plain tensors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import Source, StepLoss, Supplies, Window, parse_method
from tasks.methods._bottleneck.blocks import SITES
from tasks.methods._bottleneck.fusion import fused_in
from tasks.models import BaseModel
from tests.methods.cases import attached, logits, save, train
from tests.methods.test_bottleneck import adapted, answer, gpt2_logits, llama_logits
from tests.models.families import HIDDEN, LAYERS, tiny_model, tiny_tokens
from tests.models.tiny import token_batch

TASKS = ("run-a", "run-b", "run-c")


def task_source(folder: Path, model: nn.Module, reference: str, **settings: Any) -> Source:
    """A trained adapter in a folder, as a session would hand it over."""
    method = parse_method({"kind": "adapter", **settings})
    folder.mkdir(parents=True, exist_ok=True)
    method.save(model, folder, {name: part.detach() for name, part in model.named_parameters() if part.requires_grad})
    return Source(reference=reference, path=folder, digest=reference, holds="adapter", method=method.model_dump())


def sources(folder: Path, family: str = "llama", count: int = 2) -> dict[str, Source]:
    """Adapters of different sizes and weights on one base."""
    found = {}
    for n in range(count):
        size = {"variant": "pfeiffer", "bottleneck_size": 3 + n}
        model = adapted(tiny_model(family), **size)
        for part in model.parameters():
            part.data = part.data * (1 + n) if part.requires_grad else part.data
        found[f"adapters.{n}"] = task_source(folder / str(n), model, TASKS[n], **size)
    return found


def fused(folder: Path, family: str = "llama", count: int = 2, **settings: Any) -> tuple[Any, nn.Module]:
    method = parse_method({"kind": "adapter_fusion", "adapters": TASKS[:count], **settings})
    torch.manual_seed(0)
    return method, method.attach(tiny_model(family), Supplies(sources(folder, family, count)))


def shaken(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for part in model.parameters():
        if part.requires_grad:
            part.data += torch.randn(part.shape, generator=generator) * 0.2
    return model.eval()


def stored(folder: Path, n: int, block: int, family: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_down, b_down, W_up, b_up of task adapter n, read from its own folder."""
    tensors = load_file(folder / str(n) / "adapter_model.safetensors")
    start = f"{SITES[family].blocks}.{block}.adapter.ffn."
    down, down_bias, up, up_bias = (
        tensors[start + end] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
    )
    return down, down_bias, up, up_bias


@pytest.mark.parametrize(("family", "by_hand"), [("llama", llama_logits), ("gpt2", gpt2_logits)])
@pytest.mark.parametrize("settings", [{}, {"form": "low_rank", "rank": 5}, {"form": "no_value"}])
def test_each_form_is_the_papers_formula(tmp_path: Path, family: str, by_hand: Any, settings: dict[str, Any]) -> None:
    _, model = fused(tmp_path, family, count=3, **settings)
    weights = {block.index: dict(block.attention.named_parameters()) for block in fused_in(shaken(model))}

    def block(index: int, x: Tensor, norms: Any, attention: Any, mlp: Any) -> Tensor:
        x = x + attention(norms[0](x))
        h = mlp(norms[1](x))
        s = x + h
        own = weights[index]
        value = own.get("value", torch.eye(HIDDEN))
        if settings.get("form") == "low_rank":
            value = torch.eye(HIDDEN) + own["value_down"] @ own["value_up"]
        z = [answer(stored(tmp_path, n, index, family), s) for n in range(3)]
        scores = [torch.einsum("btr,btr->bt", h @ own["query"], z_n @ own["key"]) for z_n in z]
        share = torch.softmax(torch.stack(scores), dim=0)
        return s + sum((share[n][..., None] * (z[n] @ value) for n in range(3)), torch.zeros(()))

    ids = tiny_tokens()
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, by_hand(tiny_model(family), ids, block), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(SITES))
def test_every_family_trains_its_attention_and_nothing_else(tmp_path: Path, family: str) -> None:
    _, model = fused(tmp_path, family)
    ids = tiny_tokens()
    model.train()(input_ids=ids, labels=ids).loss.backward()
    moved = {name.rpartition(".")[2] for name, part in model.named_parameters() if part.grad is not None}
    assert moved == {"query", "key", "value"}
    assert all(part.grad.any() for part in model.parameters() if part.requires_grad)


@pytest.mark.parametrize(
    ("settings", "each"),
    [
        ({}, 3 * HIDDEN**2),
        ({"form": "low_rank", "rank": 4}, 4 * HIDDEN * 4),
        ({"form": "low_rank"}, 4 * HIDDEN * HIDDEN),
        ({"form": "no_value"}, 2 * HIDDEN**2),
    ],
)
def test_parameters_are_as_many_as_the_formula_says(tmp_path: Path, settings: dict[str, Any], each: int) -> None:
    _, model = fused(tmp_path, **settings)
    assert sum(part.numel() for part in model.parameters() if part.requires_grad) == LAYERS * each


@pytest.mark.parametrize("settings", [{}, {"form": "low_rank", "rank": 4}])
def test_v_starts_at_the_identity_and_what_it_moves_is_penalised_but_not_reported(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    method, model = fused(tmp_path, **settings)
    ids = tiny_tokens()
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    window = Window(items=None, micro_batches=4)

    def losses() -> StepLoss:
        made: StepLoss = method.training_loss(model.train(), inputs, window)
        return made

    assert torch.equal(losses().total, losses().cross_entropy)
    with torch.no_grad():
        for block in fused_in(model):
            if block.attention.value is not None:
                block.attention.value[0, 1] += 3.0
            else:
                block.attention.value_down.zero_()[0, 0] = 1.0
                block.attention.value_up[0, 1] = 3.0
    made = losses()
    assert float((made.total - made.cross_entropy).detach()) == pytest.approx(0.01 * LAYERS * 9 / 4, rel=1e-4)
    made.total.backward()
    assert float(made.cross_entropy.detach()) == pytest.approx(float(model(**inputs).loss.detach()) / 4, rel=1e-5)


def test_without_a_penalty_the_loss_is_the_models_own(tmp_path: Path) -> None:
    for settings in ({"form": "no_value"}, {"value_regularisation": 0}):
        method, model = fused(tmp_path, **settings)
        assert method.training_loss(model, {}, Window(None, 1)) is None


def test_queries_and_keys_start_at_the_papers_spread(tmp_path: Path) -> None:
    _, model = fused(tmp_path)
    block = next(fused_in(model)).attention
    assert float(block.query.std()) == pytest.approx(0.02, rel=0.1)
    assert float(block.key.std()) == pytest.approx(0.02, rel=0.1)


def test_the_saved_folder_holds_the_adapters_and_needs_no_source(base: BaseModel, tmp_path: Path) -> None:
    method, model = fused(tmp_path / "sources", names=["first", "second"])
    shaken(model)
    expected = model(tiny_tokens()).logits
    (tmp_path / "out").mkdir()
    method.save(model, tmp_path / "out", dict(_trainable(model)))
    shutil.rmtree(tmp_path / "sources")
    loaded = method.load(tiny_model("llama"), tmp_path / "out")
    assert torch.equal(loaded(tiny_tokens()).logits, expected)
    assert str(tmp_path) not in (tmp_path / "out" / "adapter_config.json").read_text()
    with pytest.raises(IntegrityError, match="does not fit the base"):
        method.load(tiny_model("llama", num_hidden_layers=3), tmp_path / "out")


def test_the_attention_map_is_the_mean_weight_over_real_tokens(tmp_path: Path) -> None:
    method, model = fused(tmp_path / "sources", names=["first", "second"])
    (tmp_path / "out").mkdir()
    method.save(shaken(model), tmp_path / "out", dict(_trainable(model)))
    loaded = method.load(tiny_model("llama"), tmp_path / "out")
    ids = tiny_tokens(rows=3, tokens=6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    shares = method.explain(loaded, [batch, batch])
    assert list(shares) == [f"fusion/layer_{index}/{name}" for index in range(LAYERS) for name in ("first", "second")]
    assert shares["fusion/layer_1/first"] + shares["fusion/layer_1/second"] == pytest.approx(1)
    assert abs(shares["fusion/layer_1/first"] - 0.5) > 1e-3
    rows = [method.explain(loaded, [{"input_ids": row[None]}]) for row in (ids[0], ids[1, :4], ids[2])]
    counts = (6, 4, 6)
    for name, share in shares.items():
        by_row = sum(row[name] * count for row, count in zip(rows, counts, strict=True)) / sum(counts)
        assert share == pytest.approx(by_row, abs=1e-5)


def _trainable(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, part.detach()) for name, part in model.named_parameters() if part.requires_grad]


def test_its_sources_are_named_by_their_place(tmp_path: Path) -> None:
    method = parse_method({"kind": "adapter_fusion", "adapters": ["a", "b"], "init_from": "c"})
    assert method.sources() == {"init_from": "c", "adapters.0": "a", "adapters.1": "b"}


def test_training_goes_on_from_an_earlier_fusion_of_the_same_form(base: BaseModel, tmp_path: Path) -> None:
    settings = {"kind": "adapter_fusion", "adapters": ["one", "two"]}
    method, model = attached(settings, base)
    train(model)
    save(method, model, tmp_path)
    source = Source(reference="run-1", path=tmp_path, digest="d", holds="adapter", method=method.model_dump())
    fresh, other = attached(settings, base, seed=4)
    fresh.start_from(other, source)
    assert torch.equal(logits(other), logits(model))
    lower, small = attached({**settings, "form": "low_rank"}, base)
    with pytest.raises(ConfigError, match=r"run-1 is adapter_fusion of the form.*init_from"):
        lower.start_from(small, source)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"methods\[adapter_fusion\]\.adapters: Field required"),
        ({"adapters": ["a"]}, "two or more adapters, there is 1: name another, or .*init_from"),
        ({"adapters": ["a", "b"], "names": ["x"]}, "1 names for 2 adapters"),
        ({"adapters": ["a", "b"], "names": ["x", "x"]}, "each must be another one"),
        ({"adapters": ["a", "b"], "rank": 4}, "rank belongs to form: low_rank"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_method({"kind": "adapter_fusion", **settings})
    assert caught.value.exit_code == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "houlsby"}, "run-b is of the variant houlsby.*variant: pfeiffer"),
        ({"variant": "parallel"}, "run-b is of the variant parallel"),
        ({"variant": "pfeiffer", "train_layer_norms": True}, "run-b is one with layer norms of its own"),
        ({"variant": "pfeiffer", "layers_to_transform": [1]}, r"run-a is in the blocks \[0, 1\], run-b in \[1\]"),
    ],
)
def test_adapters_that_do_not_go_together_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    found = sources(tmp_path, count=1)
    other = adapted(tiny_model("llama"), **settings)
    found["adapters.1"] = task_source(tmp_path / "other", other, "run-b", **settings)
    with pytest.raises(ConfigError, match=message):
        parse_method({"kind": "adapter_fusion", "adapters": TASKS[:2]}).attach(tiny_model("llama"), Supplies(found))


def test_adapters_of_another_base_or_another_kind_are_refused(base: BaseModel, tmp_path: Path) -> None:
    method = parse_method({"kind": "adapter_fusion", "adapters": TASKS[:2]})
    found = sources(tmp_path)
    with pytest.raises(ConfigError, match=r"run-a.*the base is gpt2"):
        method.attach(tiny_model("gpt2"), Supplies(found))
    bases = {name: source.model_copy(update={"base_digest": name}) for name, source in found.items()}
    with pytest.raises(ConfigError, match="run-a and run-b were trained on different bases"):
        method.attach(tiny_model("llama"), Supplies(bases))
    (tmp_path / "lora").mkdir()
    lora, tuned = attached({"kind": "lora", "r": 2}, base)
    save(lora, tuned, tmp_path / "lora")
    theirs = found["adapters.1"].model_copy(update={"path": tmp_path / "lora", "method": {"kind": "lora"}})
    with pytest.raises(ConfigError, match=r"run-b \(made by lora\) is no adapter of this family"):
        method.attach(tiny_model("llama"), Supplies({**found, "adapters.1": theirs}))
    (tmp_path / "fused").mkdir()
    made, model = fused(tmp_path / "again")
    made.save(model, tmp_path / "fused", dict(_trainable(model)))
    nested = found["adapters.1"].model_copy(update={"path": tmp_path / "fused"})
    with pytest.raises(ConfigError, match="is adapter_fusion, not one bottleneck adapter"):
        method.attach(tiny_model("llama"), Supplies({**found, "adapters.1": nested}))


def test_checkpointing_changes_neither_the_loss_nor_the_penalty(base: BaseModel) -> None:
    ids = token_batch()
    inputs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    found = []
    for checkpointed in (False, True):
        method, model = attached({"kind": "adapter_fusion", "adapters": ["one", "two"]}, base)
        for block in fused_in(model):
            block.attention.value.data += 0.1
        if checkpointed:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        made = method.training_loss(model, inputs, Window(None, 1))
        assert made is not None
        made.total.backward()
        found.append([made.total.detach(), *(part.grad for part in model.parameters() if part.grad is not None)])
    torch.testing.assert_close(found[0], found[1])
