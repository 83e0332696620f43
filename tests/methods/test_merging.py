"""Whatever can become part of the base does so exactly, and what cannot says why (its own tests: tests/merging)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError
from tasks.merging import MergeSettings
from tasks.merging.merge import merge, write_merged
from tasks.merging.outcome import unmerged_cell
from tasks.methods import Candidate, parse_method
from tasks.models import BaseModel
from tests.methods.cases import Settings, attached, case_name, save, train, trainable_cases

TOLERANCE = 1e-5
SEEN = 1e-3
"""An adapter that moves the logits by less than this share of them could be lost in the merge without a trace."""


def merges(settings: Settings) -> bool:
    return not parse_method(settings).unmergeable()


def trained(settings: Settings, base: BaseModel, folder: Path) -> Candidate:
    method, model = attached(settings, base)
    train(model, method=method)
    folder.mkdir()
    save(method, model, folder)
    return Candidate(label="x", base=base, method=method.model_dump(mode="json"), weights=folder, holds=method.holds)


ADAPTERS = [case for case in trainable_cases() if parse_method(case).holds == "adapter"]


@pytest.mark.parametrize("settings", [case for case in ADAPTERS if merges(case)], ids=case_name)
def test_a_merged_adapter_is_the_same_function(
    settings: Settings, base: BaseModel, rows: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    proof = merge(trained(settings, base, tmp_path / "adapter"), rows, MergeSettings(rows=4), tmp_path / "out")
    assert proof.largest_difference <= TOLERANCE
    assert proof.adapter_effect > SEEN
    assert (proof.dtype, proof.same_argmax) == ("float32", 1.0)


@pytest.mark.parametrize("settings", [case for case in ADAPTERS if not merges(case)], ids=case_name)
def test_an_adapter_that_cannot_merge_goes_on_beside_the_base_and_says_why(
    settings: Settings, base: BaseModel, tmp_path: Path
) -> None:
    candidate = trained(settings, base, tmp_path / "adapter")
    cell = unmerged_cell(candidate, "digest", MergeSettings())
    assert cell is not None
    assert (cell.outcome, cell.candidate) == ("cannot", candidate)
    assert cell.reason.startswith(parse_method(settings).unmergeable())
    with pytest.raises(ConfigError, match="cannot be merged"):
        write_merged(candidate, MergeSettings(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "settings", [case for case in trainable_cases() if parse_method(case).holds == "model"], ids=case_name
)
def test_a_whole_model_needs_no_merge(settings: Settings, base: BaseModel, tmp_path: Path) -> None:
    cell = unmerged_cell(trained(settings, base, tmp_path / "model"), "digest", MergeSettings())
    assert cell is not None
    assert cell.outcome == "not_needed"
