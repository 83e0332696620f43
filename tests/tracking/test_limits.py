"""Names and values fit MLflow, and different ones stay different."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.tracking import TrackingSettings
from tasks.tracking.limits import MAX_KEY_CHARS, flatten, safe_key, storable


def test_nested_settings_become_flat_params() -> None:
    settings = {
        "method": {"kind": "lora", "r": 8, "target_modules": ["q_proj", "v_proj"], "extra": {}},
        "training": {"learning_rate": 3e-3, "max_steps": None, "bf16": False},
        "folder": Path("runs"),
        "tracking": TrackingSettings(uri="sqlite:///a.db"),
    }

    assert flatten(settings) == {
        "method.kind": "lora",
        "method.r": "8",
        "method.target_modules": '["q_proj", "v_proj"]',
        "method.extra": "{}",
        "training.learning_rate": "0.003",
        "training.max_steps": "None",
        "training.bf16": "False",
        "folder": "runs",
        "tracking.uri": "sqlite:///a.db",
        "tracking.ui_url": "None",
        "tracking.experiment": "None",
        "tracking.flush_seconds": "10.0",
    }


@pytest.mark.parametrize("name", ["eval/e2e/bleu", "train/loss", "a b", "质量", "x.y-z_1"])
def test_a_name_that_mlflow_takes_stays_as_it_is(name: str) -> None:
    assert safe_key(name) == name


@pytest.mark.parametrize("name", ["rouge@L", "/abs", "../up", "a//b", "", ".", "a/../../b", "x" * 300, "a:b", "a\x00"])
def test_any_other_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_length_limit, _validate_metric_name

    _validate_metric_name(safe_key(name))
    _validate_length_limit("key", MAX_KEY_CHARS, safe_key(name))


def test_names_that_look_alike_after_cleaning_stay_apart() -> None:
    names = ["a@b", "a#b", "a_b", "x" * 300, "x" * 301]

    assert len({safe_key(name) for name in names}) == len(names)


def test_text_that_no_database_takes_is_spelled_out() -> None:
    assert storable("a\udc80b\x00c") == "a\\udc80b\\x00c"
