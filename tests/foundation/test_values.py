"""Values and settings are frozen and refuse what they do not know."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks.foundation.values import Settings, Value


class Thing(Value):
    size: int


class Section(Settings):
    rate: float = 1.0
    """How fast."""


@pytest.mark.parametrize("kind", [Thing, Section])
def test_an_unknown_field_is_refused(kind: type[Value]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        kind.model_validate({"size": 1, "rate": 1.0, "colour": "red"})


def test_nothing_can_be_assigned() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Thing(size=1).size = 2  # type: ignore[misc]


def test_the_text_under_a_setting_is_its_documentation() -> None:
    assert Section.model_fields["rate"].description == "How fast."


def test_a_setting_is_a_finite_number() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Section(rate=float("inf"))
