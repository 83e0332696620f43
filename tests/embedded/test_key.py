"""The key of the base, and its budget."""

import pytest
from pydantic import ValidationError

from tasks.embedded import PretrainBudget, embedded_key
from tasks.embedded import key as key_module


def test_the_key_follows_budget_code_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {embedded_key(), embedded_key(PretrainBudget(seed=1))}
    monkeypatch.setattr(key_module, "library_versions", lambda *names: dict.fromkeys(names, "0"))
    keys.add(embedded_key())
    monkeypatch.setattr(key_module, "code_digest", lambda *modules: "other code")
    keys.add(embedded_key())
    assert len(keys) == 4


def test_the_key_without_a_budget_is_that_of_the_defaults() -> None:
    assert embedded_key() == embedded_key(PretrainBudget())


def test_a_width_that_nf4_cannot_take_is_refused() -> None:
    with pytest.raises(ValidationError, match="multiple of 64"):
        PretrainBudget(hidden_size=96)
