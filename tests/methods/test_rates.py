from __future__ import annotations

import pytest

from tasks.methods import parse_method
from tasks.methods._rates import rate_between
from tasks.models import BaseModel


def facts_of(base: BaseModel, parameters: int):  # type: ignore[no-untyped-def]
    return base.facts.model_copy(update={"parameters": parameters})


def test_rates_are_flat_outside_and_a_line_of_logarithms_between(base: BaseModel) -> None:
    def rate(parameters: int) -> float:
        return rate_between(facts_of(base, parameters), small=1e-2, large=1e-4)

    assert (rate(1000), rate(5_000_000), rate(100_000_000), rate(10**12)) == (1e-2, 1e-2, 1e-4, 1e-4)
    assert rate(22_360_680) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("settings", "large", "huge"),
    [
        ({"kind": "full"}, 2e-5, 1e-5),
        ({"kind": "distillation"}, 2e-4, 2e-4),
        ({"kind": "distillation", "student": {"kind": "full"}}, 2e-5, 1e-5),
        ({"kind": "freeze"}, 5e-5, 5e-5),
        ({"kind": "lora"}, 2e-4, 2e-4),
        ({"kind": "qlora"}, 2e-4, 2e-4),
        ({"kind": "lora", "use_dora": True}, 1e-4, 1e-4),
        ({"kind": "lora", "use_rslora": True}, 1e-4, 1e-4),
        ({"kind": "lora", "init_lora_weights": "pissa"}, 1e-4, 1e-4),
        ({"kind": "lora", "loraplus_lr_ratio": 16}, 2e-4 / 16, 2e-4 / 16),
        ({"kind": "adalora"}, 1e-3, 1e-3),
        ({"kind": "ia3"}, 5e-3, 5e-3),
        ({"kind": "prompt_tuning"}, 3e-2, 1e-2),
        ({"kind": "p_tuning"}, 1e-3, 1e-3),
        ({"kind": "adapter"}, 3e-4, 3e-4),
        ({"kind": "adapter", "variant": "parallel"}, 3e-4, 3e-4),
        ({"kind": "adapter_drop"}, 3e-4, 3e-4),
        ({"kind": "adapter_fusion", "adapters": ["a", "b"]}, 5e-5, 5e-5),
        ({"kind": "mam_adapter"}, 3e-4, 3e-4),
        ({"kind": "bitfit"}, 1e-3, 1e-3),
        ({"kind": "prefix_tuning"}, 1e-3, 1e-3),
        ({"kind": "prefix_tuning", "prefix_projection": False}, 5e-3, 5e-3),
        ({"kind": "progressive_shrinking"}, 2e-4, 2e-4),
        ({"kind": "pruning"}, 2e-4, 2e-4),
        ({"kind": "p_tuning_v2"}, 5e-3, 5e-3),
        ({"kind": "llama_adapter"}, 5e-3, 5e-3),
        ({"kind": "peft_config", "config": {"peft_type": "LORA"}}, 2e-4, 2e-4),
        ({"kind": "peft_config", "config": {"peft_type": "LORA", "use_dora": True}}, 1e-4, 1e-4),
        ({"kind": "peft_config", "config": {"peft_type": "PREFIX_TUNING", "prefix_projection": True}}, 1e-3, 1e-3),
        ({"kind": "peft_config", "config": {"peft_type": "C3A"}}, 0.3, 0.3),
    ],
)
def test_large_models_get_the_rates_of_the_reference_table(
    base: BaseModel, settings: dict[str, object], large: float, huge: float
) -> None:
    method = parse_method(settings)
    assert method.default_learning_rate(facts_of(base, 100_000_000)) == large
    assert method.default_learning_rate(facts_of(base, 8_000_000_000)) == huge
