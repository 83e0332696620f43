"""The two bases of what crosses a boundary: values and settings. Both are frozen and refuse unknown fields."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A small immutable record: paths, digests, counts. Never a model or a data set."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Settings(Value):
    """One section of the experiment file. The text under each field is its documentation everywhere."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )
