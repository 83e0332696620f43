"""A folder with an adapter, a whole model, or an artifact with one of them in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.foundation.errors import ModelError
from tasks.models.values import Quantization
from tasks.sources.folder import look_into, source_in
from tests.sources.worlds import FULL, LORA, Record

WHERE = "methods[lora].init_from"


@pytest.fixture
def adapter(record: Record, tmp_path: Path) -> Path:
    """A copy of the `train` artifact of a LoRA, below the test's own folder."""
    return Path(shutil.copytree(record.found(record.runs["lora"]).path.parent, tmp_path / "made")) / "adapter"


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        look_into(folder, WHERE)
    assert str(caught.value).startswith((f"{WHERE}: ", str(folder)))
    return str(caught.value)


def test_a_trained_adapter_names_its_method_and_its_base(record: Record, adapter: Path) -> None:
    found = source_in(adapter, str(adapter), WHERE, record.base)
    assert (found.path, found.holds, found.base_digest) == (adapter, "adapter", record.base.digest)
    assert found.method is not None and LORA.items() <= found.method.items()
    assert found.files == ("adapter_config.json", "adapter_model.safetensors")


def test_the_artifact_is_as_good_as_the_adapter_in_it(record: Record, adapter: Path) -> None:
    assert source_in(adapter.parent, "made", WHERE, record.base) == source_in(adapter, "made", WHERE, record.base)


def test_the_digest_is_that_of_names_and_bytes_wherever_they_lie(record: Record, adapter: Path, tmp_path: Path) -> None:
    here = source_in(adapter, "a", WHERE, record.base)
    alone = Path(shutil.copytree(adapter, tmp_path / "elsewhere" / "alone"))
    (alone / "README.md").write_text("what save_pretrained writes beside it")
    (alone / "checkpoint-5").mkdir()
    (alone / "checkpoint-5" / "trainer_state.json").write_text("{}")
    there = source_in(alone, "b", WHERE, record.base)
    assert (there.digest, there.base_digest, there.method) == (here.digest, "", None)
    (alone / "adapter_config.json").write_text("{}")
    assert source_in(alone, "b", WHERE, record.base).digest != here.digest


def test_a_whole_model_is_held_as_the_base_is(record: Record, tmp_path: Path) -> None:
    folder = record.found(record.runs["full"]).path
    base = record.base.model_copy(
        update={"dtype": "bfloat16", "attn_implementation": "eager", "quantization": Quantization(bits=8)}
    )
    found = source_in(folder, "tuned", WHERE, base)
    assert found.holds == "model" and found.model is not None
    assert found.method is not None and FULL.items() <= found.method.items()
    assert (found.model.path, found.model.digest, found.base_digest) == (found.path, found.digest, "")
    held = ("dtype", "attn_implementation", "quantization")
    assert [getattr(found.model, name) for name in held] == [getattr(base, name) for name in held]


def test_a_missing_folder_is_refused_with_the_one_that_was_meant(adapter: Path) -> None:
    assert f"Did you mean {adapter}?" in refused(adapter.with_name("adaptor"))
    assert "a run id (32 hex digits)" in refused(adapter.with_name("nothing-like-it"))


def test_a_folder_with_neither_an_adapter_nor_a_model_is_refused(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()
    assert "neither an adapter nor a model" in refused(adapter.parent)


def test_a_pickled_adapter_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "pickled (adapter_model.bin)" in refused(adapter)
    (adapter / "adapter_model.bin").unlink()
    assert "has no weights" in refused(adapter)


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    assert "pickled (pytorch_model.bin)" in refused(tmp_path)


def test_a_torn_file_is_refused(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated or damaged"):
        look_into(adapter, WHERE)
