"""The run of a cell leads to what it trained, on the machine that trained it and on any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks.artifacts import ArtifactStore
from tasks.foundation.errors import ConfigError, DependencyError, IntegrityError, ModelError
from tasks.tracking import TrackingSettings
from tests.ports import refusing_port
from tests.sources.worlds import LORA, Record


def refused(record: Record, run: str) -> str:
    with pytest.raises(ConfigError) as caught:
        record.found(run)
    assert str(caught.value).startswith("methods[lora].init_from: ")
    return str(caught.value)


def test_what_this_machine_trained_is_taken_from_its_store(record: Record) -> None:
    found = record.found(record.runs["lora"])
    assert found.path.is_relative_to(record.store.root / "train")
    assert (found.run_id, found.holds, found.base_digest) == (record.runs["lora"], "adapter", record.base.digest)
    assert found.title == f"run {record.runs['lora']}"


def test_another_machine_fetches_the_same_adapter_from_mlflow_once(record: Record, tmp_path: Path) -> None:
    here, elsewhere = record.found(record.runs["lora"]), ArtifactStore(tmp_path / "artifacts")
    there = record.found(record.runs["lora"], elsewhere)
    assert there.path.is_relative_to(elsewhere.root / "source")
    assert there.model_copy(update={"path": here.path}) == here
    assert there.method is not None and LORA.items() <= there.method.items()
    before = there.path.stat().st_mtime_ns
    assert record.found(record.runs["lora"], elsewhere).path.stat().st_mtime_ns == before


def test_another_result_of_the_same_cell_is_not_taken_for_the_run_s(record: Record, tmp_path: Path) -> None:
    """Two machines may train the same cell to other bytes: the run's own are meant."""
    store = ArtifactStore(tmp_path / "artifacts")
    made = record.found(record.runs["lora"]).path.parent

    def another(folder: Path) -> None:
        shutil.copytree(made, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        result = (folder / "result.json").read_text()
        digest = MlflowClient(record.tracking.uri).get_run(record.runs["lora"]).data.tags["tuneline.weights_sha256"]
        (folder / "result.json").write_text(result.replace(digest, "0" * 64))

    store.make("train", made.name, another)
    assert record.found(record.runs["lora"], store).path.is_relative_to(store.root / "source")


def test_an_adapter_that_was_changed_in_mlflow_is_refused(record: Record, tmp_path: Path) -> None:
    client = MlflowClient(record.tracking.uri)
    root = Path(client.get_run(record.runs["lora"]).info.artifact_uri.removeprefix("file://"))
    weights = root / "adapter" / "adapter_model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    try:
        with pytest.raises(IntegrityError, match="is not the one that it trained"):
            record.found(record.runs["lora"], ArtifactStore(tmp_path / "artifacts"))
    finally:
        weights.write_bytes(before)


def test_a_whole_model_is_not_in_mlflow_and_another_machine_says_so(record: Record, tmp_path: Path) -> None:
    assert record.found(record.runs["full"]).model is not None
    with pytest.raises(ModelError, match=r"neither in .*artifacts nor in MLflow.*registered version"):
        record.found(record.runs["full"], ArtifactStore(tmp_path / "artifacts"))


def test_an_unknown_run_is_refused(record: Record) -> None:
    assert f"MLflow knows no run {'0' * 32}" in refused(record, "0" * 32)


def test_the_run_of_the_comparison_is_refused_with_those_of_its_cells(record: Record) -> None:
    said = refused(record, record.runs["comparison"])
    assert f"{record.runs['lora']} (lora)" in said and f"{record.runs['full']} (full)" in said


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("none", "trained nothing"),
        ("training", "has not finished training. Wait for it"),
        ("failed", "ended as FAILED before it left weights"),
    ],
)
def test_a_run_without_weights_is_refused_with_the_reason(record: Record, run: str, said: str) -> None:
    assert said in refused(record, record.runs[run])


def test_a_deleted_run_is_refused_with_the_way_back(record: Record) -> None:
    client = MlflowClient(record.tracking.uri)
    client.delete_run(record.runs["lora"])
    try:
        assert f"mlflow runs restore --run-id {record.runs['lora']}" in refused(record, record.runs["lora"])
    finally:
        client.restore_run(record.runs["lora"])


def test_a_server_that_is_not_there_is_said_in_one_line(record: Record) -> None:
    with refusing_port() as port, pytest.raises(DependencyError) as caught:
        record._replace(tracking=TrackingSettings(uri=f"http://127.0.0.1:{port}")).found(record.runs["lora"])
    assert caught.value.exit_code == 21
    assert "refused" in str(caught.value) and "\n" not in str(caught.value)
