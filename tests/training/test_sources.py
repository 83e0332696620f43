"""A cell that goes on from an earlier result: on which base, under which fingerprint, and to which bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tasks.artifacts import Artifact
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.methods import INIT_FROM, Conditions, Source
from tasks.models.values import BaseModel
from tasks.sources.folder import source_in
from tasks.training.lineage import facts_of
from tasks.training.plan import CellSpec, plan_cell
from tasks.training.preflight import check_places
from tasks.training.settings import TrainingSettings
from tasks.training.values import Cell, TrainRequest
from tests.models.tiny import tiny_base, write_tiny_llama
from tests.training.worlds import (
    LORA,
    QUICK,
    killed_after,
    loss_series,
    request_in,
    toy_cell,
    trained,
)

FULL = {"kind": "full", "learning_rate": 1e-3}
STEADY = LORA | {"lora_dropout": 0.0}


@pytest.fixture(scope="module")
def earlier(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> TrainRequest:
    """A LoRA that was trained for 8 steps."""
    request = request_in(tmp_path_factory.mktemp("earlier"), toy_cell(base, tokens, STEADY))
    trained(request)
    return request


@pytest.fixture(scope="module")
def whole(base: BaseModel, tokens: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The base, fully tuned for 8 steps."""
    request = request_in(tmp_path_factory.mktemp("whole"), toy_cell(base, tokens, FULL))
    trained(request)
    return source_in(request.output, "run7", "init_from", base)


def adapter(request: TrainRequest, folder: Path | None = None) -> Source:
    """The trained adapter as a source; `folder`: a copy of it there."""
    path = request.output / "adapter"
    path = Path(shutil.copytree(path, folder)) if folder else path
    return source_in(path, str(path), "init_from", request.cell.base)


def going_on(source: Source, cell: Cell, method: dict[str, Any] = STEADY, training: TrainingSettings = QUICK) -> Cell:
    """A cell on the base and tokens of another that starts from a source."""
    settings = method | {INIT_FROM: source.reference}
    spec = CellSpec(label="on", method=settings, seed=0, sources={INIT_FROM: source})
    conditions = Conditions(gradient_checkpointing=False, packing=False, max_seq_length=16)
    return plan_cell(spec, cell.base, cell.tokens, training, conditions)


def refused(source: Source, cell: Cell, method: dict[str, Any] = STEADY) -> str:
    with pytest.raises(ConfigError) as caught:
        going_on(source, cell, method)
    assert str(caught.value).startswith(f"methods[{method['kind']}].init_from: ")
    return str(caught.value)


def test_the_same_adapter_elsewhere_gives_the_same_fingerprint_and_another_one_does_not(
    earlier: TrainRequest, tmp_path: Path
) -> None:
    here, there = adapter(earlier), adapter(earlier, tmp_path / "copy")
    assert here.reference != there.reference
    assert going_on(here, earlier.cell).fingerprint == going_on(there, earlier.cell).fingerprint
    assert going_on(here, earlier.cell).fingerprint != earlier.cell.fingerprint
    other = there.model_copy(update={"digest": "0" * 64})
    assert going_on(other, earlier.cell).fingerprint != going_on(there, earlier.cell).fingerprint


def test_no_path_of_a_source_is_among_the_facts(earlier: TrainRequest, tmp_path: Path) -> None:
    facts = facts_of(going_on(adapter(earlier, tmp_path / "copy"), earlier.cell))
    assert facts["source.init_from"].strip('"') == adapter(earlier).digest
    assert not [name for name, value in facts.items() if str(tmp_path) in value]


def test_training_begins_with_the_earlier_adapter_s_weights(earlier: TrainRequest, tmp_path: Path) -> None:
    still = QUICK.model_copy(update={"max_steps": 1, "lr_scheduler_type": "constant", "warmup_ratio": 0.0})
    cell = going_on(adapter(earlier), earlier.cell, STEADY | {"learning_rate": 1e-5}, still)
    request = request_in(tmp_path, cell)
    trained(request)
    before, after = (load_file(each.output / "adapter/adapter_model.safetensors") for each in (earlier, request))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-4) for name in before)
    assert any(before[name].abs().max() > 1e-3 for name in before if "lora_B" in name)


def test_killed_and_started_again_it_ends_with_the_same_bytes(earlier: TrainRequest, tmp_path: Path) -> None:
    cell = going_on(adapter(earlier), earlier.cell)
    uninterrupted = request_in(tmp_path / "whole", cell)
    result = trained(uninterrupted)
    request = request_in(tmp_path / "killed", cell)
    killed_after(5, request)
    assert trained(request) == result
    assert loss_series(request) == loss_series(uninterrupted)


def test_a_whole_model_takes_the_place_of_the_base_and_is_loaded_once(
    whole: Source, earlier: TrainRequest, tmp_path: Path
) -> None:
    cell = going_on(whole, earlier.cell)
    assert (cell.base, cell.start) == (whole.model, None)
    request = request_in(tmp_path, cell)
    trained(request)
    tuned, untuned = loss_series(request)[0][1], loss_series(earlier)[0][1]
    assert tuned < untuned


def test_a_model_that_trains_as_a_whole_goes_on_from_one(whole: Source, earlier: TrainRequest) -> None:
    cell = going_on(whole, earlier.cell, FULL)
    assert cell.base.digest == whole.digest and cell.start is None


def test_a_whole_model_with_another_tokenizer_is_refused(whole: Source, earlier: TrainRequest) -> None:
    assert whole.model is not None
    foreign = whole.model.model_copy(update={"tokenizer_digest": "0" * 64})
    said = refused(whole.model_copy(update={"model": foreign}), earlier.cell)
    assert "another tokenizer" in said and f"Set model.name_or_path: {whole.path}" in said


def test_an_adapter_of_another_base_is_refused(earlier: TrainRequest) -> None:
    said = refused(adapter(earlier).model_copy(update={"base_digest": "0" * 64}), earlier.cell)
    assert "an adapter of another base (000000000000)" in said
    assert going_on(adapter(earlier).model_copy(update={"base_digest": ""}), earlier.cell).start is not None


def test_a_model_does_not_go_on_from_an_adapter(earlier: TrainRequest) -> None:
    assert "full trains the model itself" in refused(adapter(earlier), earlier.cell, FULL)


def test_the_untuned_base_goes_on_from_nothing(whole: Source, earlier: TrainRequest) -> None:
    assert "none trains nothing" in refused(whole, earlier.cell, {"kind": "none"})


@pytest.fixture
def own(earlier: TrainRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainRequest:
    """A request whose source lies in the test's folder, alone in its gang."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return request_in(tmp_path, going_on(adapter(earlier, tmp_path / "source"), earlier.cell))


def replaced(path: Path, content: bytes) -> None:
    """Another file in its place, as a copy on a node's own disk is."""
    path.with_name("staged").write_bytes(content)
    path.with_name("staged").replace(path)


def test_a_node_with_the_source_s_bytes_passes(own: TrainRequest, tmp_path: Path) -> None:
    weights = tmp_path / "source" / "adapter_model.safetensors"
    replaced(weights, weights.read_bytes())
    check_places(own)


def test_a_node_with_another_source_refuses_by_its_name(own: TrainRequest, tmp_path: Path) -> None:
    weights = tmp_path / "source" / "adapter_model.safetensors"
    content = weights.read_bytes()
    replaced(weights, content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=f"is not the {tmp_path / 'source'} of the request"):
        check_places(own)


@pytest.mark.parametrize("seen", [True, False], ids=["hashed by the pipeline", "hashed here"])
def test_a_node_without_the_source_refuses(own: TrainRequest, tmp_path: Path, seen: bool) -> None:
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(IntegrityError, match=str(tmp_path / "source")):
        check_places(own if seen else own.model_copy(update={"seen": {}}))


def test_a_source_may_lie_below_the_base(earlier: TrainRequest, tmp_path: Path) -> None:
    base = tiny_base(write_tiny_llama(tmp_path / "base"))
    source = adapter(earlier, tmp_path / "base" / "adapters" / "first")
    cell = earlier.cell.model_copy(update={"base": base})
    check_places(request_in(tmp_path / "on", going_on(source, cell)))
