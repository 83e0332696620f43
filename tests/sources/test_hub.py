"""Adapters and models of a hub, at their commit."""

from __future__ import annotations

from pathlib import Path

from tasks.models.values import BaseModel
from tests.models.test_hub import COMMIT, cached, unreachable_hub
from tests.sources.worlds import Record

__all__ = ["unreachable_hub"]  # fixture


def test_an_adapter_of_the_hub_is_the_one_of_its_commit(record: Record, unreachable_hub: Path) -> None:
    made = record.found(record.runs["lora"])
    cached(unreachable_hub, made.path)
    found = record.found(f"someone/model@{COMMIT}")
    assert (found.digest, found.holds, found.title) == (made.digest, "adapter", f"someone/model@{COMMIT}")


def test_a_model_of_the_hub_is_named_as_a_base_would_be(record: Record, base: BaseModel, unreachable_hub: Path) -> None:
    cached(unreachable_hub, base.path)
    found = record.found(f"someone/model@{COMMIT}").model
    assert found is not None and (found.name, found.revision, found.digest) == ("someone/model", COMMIT, base.digest)
