"""What a base's modules show is refused on its architecture alone, before a weight of it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import nn

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, ModelError
from tasks.methods import INIT_FROM, Conditions, Source, Supplies, parse_method
from tasks.models import BaseModel
from tasks.models.loading import load_base
from tasks.models.skeleton import skeleton
from tasks.training.modules import check_modules, looks_at_modules
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell
from tests.methods.cases import Settings, attached, case_name, supplies, trainable_cases
from tests.methods.teachers import adapter_of, whole, write_stranger
from tests.models.families import FAMILIES

PLAIN = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)

WRONG: tuple[tuple[Settings, str], ...] = (
    ({"kind": "lora", "target_modules": ["q_proj", "query"]}, "'query' matches no linear layer.*down_proj.*q_proj"),
    ({"kind": "lora", "target_modules": ".*query"}, "'.*query' matches no linear layer"),
    ({"kind": "lora", "r": 48}, r"r: 48 is over the smaller side \(32\) of model.layers.0.self_attn.k_proj"),
    ({"kind": "qlora", "r": 4, "target_modules": ["lm_head"]}, "lm_head shares its weight"),
    ({"kind": "adalora", "init_r": 48}, "init_r: 48 is over the smaller side"),
    ({"kind": "progressive_shrinking", "r": 48}, "r: 48 is over the smaller side"),
    ({"kind": "pruning", "r": 48}, "r: 48 is over the smaller side"),
    ({"kind": "ia3", "target_modules": ["query"], "feedforward_modules": []}, "'query' matches no linear layer"),
    ({"kind": "ia3", "target_modules": ".*v_proj", "feedforward_modules": ["up"]}, "up is not among the targets"),
    ({"kind": "freeze", "modules": ["mlp.dense"]}, "'mlp.dense' matches no module with weights.*down_proj"),
    ({"kind": "bitfit", "modules": ["dense"]}, "'dense' matches no module with a bias.*q_proj"),
    ({"kind": "peft_config", "config": {"peft_type": "LOHA", "target_modules": ["query"]}}, "'query' matches nothing"),
    (
        {"kind": "peft_config", "config": {"peft_type": "LOHA", "target_modules": ["q_proj"], "layers_pattern": "x"}},
        "PEFT refuses it: When `layers_pattern` is specified",
    ),
    (
        {"kind": "peft_config", "config": {"peft_type": "CPT"}, "text": "w5 " * 64},
        r"text: 6\d tokens leave no room for a row in the model's context of 64",
    ),
    ({"kind": "distillation", "student": {"kind": "lora", "target_modules": ["query"]}}, "'query' matches no linear"),
)


@pytest.mark.parametrize("settings", trainable_cases(), ids=case_name)
def test_what_trains_is_accepted_and_the_architecture_stays_as_it_is(settings: Settings, base: BaseModel) -> None:
    architecture = skeleton(base.path)
    before = names_and_sizes(architecture)
    method = parse_method(settings)
    method.check_modules(architecture, supplies(method, base))
    assert names_and_sizes(architecture) == before
    assert all(parameter.requires_grad for parameter in architecture.parameters())


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=[case_name(settings) for settings, _ in WRONG])
def test_what_the_modules_do_not_carry_is_refused_as_it_would_be_on_the_loaded_base(
    settings: Settings, message: str, base: BaseModel
) -> None:
    with pytest.raises(ConfigError, match=message) as early:
        parse_method(settings).check_modules(skeleton(base.path))
    with pytest.raises(ConfigError) as late:
        attached(settings, base)
    assert str(early.value) == str(late.value)
    assert str(early.value).startswith(f"methods[{parse_method(settings).label}]")


SOURCES: tuple[tuple[Settings, str], ...] = (
    ({"kind": "adapter_fusion", "adapters": ["one", "a lora"]}, "a lora .*is no adapter of this family"),
    ({"kind": "lora", "init_from": "one"}, "one is an adapter of adapter, which PEFT does not know.*{kind: adapter}"),
    ({"kind": "ia3", "init_from": "a lora"}, "is an adapter of PEFT's type LORA, not IA3"),
    ({"kind": "adapter", "init_from": "a lora"}, "is no adapter of this family"),
    ({"kind": "bitfit", "init_from": "a lora"}, "is no adapter of this family"),
    ({"kind": "mam_adapter", "init_from": "a lora"}, "is no adapter of this family"),
    ({"kind": "peft_config", "config": {"peft_type": "POLY"}, "init_from": "a lora"}, "Go on with {kind: lora, r: 4"),
    ({"kind": "distillation", "student": {"kind": "ia3"}, "init_from": "a lora"}, "type LORA, not IA3"),
)


@pytest.mark.parametrize(("settings", "message"), SOURCES, ids=[case_name(settings) for settings, _ in SOURCES])
def test_an_earlier_result_that_does_not_fit_is_refused_before_the_base_is_loaded(
    settings: Settings, message: str, base: BaseModel
) -> None:
    method = parse_method(settings)
    with pytest.raises(ConfigError, match=message):
        method.check_modules(skeleton(base.path), supplies(method, base))


def test_an_earlier_adapter_of_another_size_is_refused_when_the_cells_are_planned(
    base: BaseModel, rows: Artifact, tmp_path: Path
) -> None:
    source = adapter_of({"kind": "lora", "r": 4, "lora_alpha": 8}, base, tmp_path)
    same, other = (
        planned({"kind": "lora", "r": r, "lora_alpha": 8, INIT_FROM: "r1"}, base, rows, {INIT_FROM: source})
        for r in (4, 8)
    )
    check_modules([same])
    with pytest.raises(ConfigError, match=r"methods\[lora\].init_from: .* \[4, 128\] in the earlier .*Set r: 4"):
        check_modules([same, other])


def test_a_teacher_that_cannot_teach_is_refused_before_the_base_is_loaded(base: BaseModel, tmp_path: Path) -> None:
    stranger = write_stranger(base, tmp_path / "stranger")
    (tmp_path / "lora").mkdir()
    (tmp_path / "own").mkdir()
    method = parse_method({"kind": "distillation", "teacher": "t"})
    with pytest.raises(ConfigError, match=r"has another vocabulary.*level: sequence"):
        method.check_modules(skeleton(base.path), Supplies({"teacher": whole(stranger)}, base=base))
    elsewhere = adapter_of({"kind": "lora", "r": 4}, base, tmp_path / "lora").model_copy(update={"base_digest": "b"})
    with pytest.raises(ConfigError, match="is an adapter of another base"):
        method.check_modules(skeleton(base.path), Supplies({"teacher": elsewhere}, base=base))
    unknown = adapter_of({"kind": "adapter"}, base, tmp_path / "own").model_copy(update={"method": None})
    with pytest.raises(ConfigError, match=r"no recipe\.json beside it says how it is loaded"):
        method.check_modules(skeleton(base.path), Supplies({"teacher": unknown}, base=base))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_architecture_is_that_of_the_loaded_base_without_memory(
    family: str, family_of: Callable[[str], BaseModel]
) -> None:
    base = family_of(family)
    architecture, loaded = skeleton(base.path), load_base(base)
    assert names_and_sizes(architecture) == names_and_sizes(loaded)
    assert {parameter.device.type for parameter in architecture.parameters()} == {"meta"}
    assert is_tied(architecture) == is_tied(loaded)


def test_cells_on_two_bases_are_each_looked_at_on_their_own(
    base: BaseModel, family_of: Callable[[str], BaseModel], rows: Artifact
) -> None:
    settings = {"kind": "lora", "target_modules": ["c_attn"]}
    on_gpt2, on_llama = (planned(settings, here, rows) for here in (family_of("gpt2"), base))
    check_modules([on_gpt2])
    with pytest.raises(ConfigError, match="'c_attn' matches no linear layer"):
        check_modules([on_gpt2, on_llama])


def test_only_methods_with_something_to_refuse_want_a_look(base: BaseModel, rows: Artifact) -> None:
    asking = {kind: looks_at_modules(planned({"kind": kind}, base, rows)) for kind in ("full", "lora", "freeze")}
    assert asking == {"full": False, "lora": True, "freeze": True}


def test_an_architecture_that_cannot_be_built_is_a_fault_of_the_model(
    base: BaseModel, rows: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no_such_thing"}', encoding="utf-8")
    cell = planned({"kind": "lora"}, base.model_copy(update={"path": tmp_path}), rows)
    with pytest.raises(ModelError, match="the architecture cannot be built"):
        check_modules([cell])


def planned(settings: Settings, base: BaseModel, rows: Artifact, sources: Mapping[str, Source] | None = None) -> Cell:
    spec = CellSpec(label="x", method=dict(settings), seed=0, sources=sources or {})
    return plan_cell(spec, base, rows, TrainingSettings(), PLAIN)


def names_and_sizes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters(remove_duplicate=False)}


def is_tied(model: nn.Module) -> bool:
    return model.get_input_embeddings().weight is model.get_output_embeddings().weight
