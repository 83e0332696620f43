"""Against MLflow's own SQLite store."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tasks.tracking import MetricPoint, Run, TrackingSettings, create_run
from tasks.tracking.environment import set_mlflow_defaults
from tasks.tracking.journal import beside
from tasks.tracking.protocol import JOURNAL_TAG, Batch, NewRun, RefusedError, RunGoneError, UnavailableError
from tasks.tracking.shipper import Shipper
from tests.ports import refusing_port

pytestmark = pytest.mark.xdist_group("mlflow")

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from tasks.tracking.mlflow_sink import MlflowSink

POINT = MetricPoint(name="loss", value=0.5, step=1, timestamp_ms=1000)


@pytest.fixture
def sink(database: str, tmp_path: Path) -> MlflowSink:
    from tasks.tracking.mlflow_sink import MlflowSink

    return MlflowSink(database, tmp_path / "artifacts")


@pytest.fixture
def client(database: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(database)


def new_run(key: str = "k", experiment: str = "stories", parent: str | None = None) -> NewRun:
    tags = {JOURNAL_TAG: key, "mlflow.user": "somebody"}
    return NewRun(key=key, name="cell", experiment=experiment, started_ms=77, parent_run_id=parent, tags=tags)


def test_everything_a_run_logs_is_in_mlflow(database: str, tmp_path: Path, client: MlflowClient) -> None:
    spool = tmp_path / "spool"
    with Shipper(TrackingSettings(uri=database, flush_seconds=120), spool, tmp_path / "artifacts") as shipper:
        parent = create_run(spool, name="comparison", experiment="stories")
        ref = create_run(spool, name="cell", experiment="stories", parent=parent, tags={"tuneline.seed": "0"})
        run = Run(ref)
        run.log_params({"method": {"kind": "lora", "r": 8}, "empty": "", "template": "x" * 7000})
        run.log_metric_series([POINT, POINT.model_copy(update={"step": 2, "value": math.nan})])
        run.log_metrics({"up": math.inf})
        run.log_table([{"prompt": "a", "text": "质量"}], "samples/first.json")
        run.log_dataset("e2e", "ab" * 32, "data/train.csv", "training")
        run.finish("FINISHED")
        assert shipper.flush(120) == 0
        found = client.get_run(shipper.run_id(ref) or "")
        parent_id = shipper.run_id(parent)

    assert found.info.run_name == "cell"
    assert (found.info.status, found.info.user_id) == ("FINISHED", found.data.tags["mlflow.user"])
    assert found.data.params["method.r"] == "8"
    assert found.data.params["empty"] == ""
    assert len(found.data.params["template"]) == 6000
    history = client.get_metric_history(found.info.run_id, "loss")
    found_points = [(point.step, point.timestamp, str(point.value)) for point in history]
    assert found_points == [(1, 1000, "0.5"), (2, 1000, "nan")]
    assert found.data.tags["tuneline.infinite.up"] == "inf at step 0"
    assert found.data.tags["mlflow.parentRunId"] == parent_id
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("e2e", ("ab" * 32)[:36])
    assert {tag.key: tag.value for tag in used.tags} == {
        "mlflow.data.context": "training",
        "tuneline.digest": "ab" * 32,
    }
    assert found.data.tags["tuneline.dataset.training.e2e"] == "ab" * 32
    assert found.info.artifact_uri.startswith((tmp_path / "artifacts" / "stories").as_uri())
    assert not beside(ref.journal, ".rejected.jsonl").exists()


def test_mlflow_reads_our_tables_as_its_own(
    database: str, tmp_path: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)  # MLflow's reader looks there, whatever its client was told
    spool = tmp_path / "spool"
    with Shipper(TrackingSettings(uri=database, flush_seconds=120), spool, tmp_path / "artifacts"):
        ref = create_run(spool, name="cell", experiment="stories")
        Run(ref).log_table([{"prompt": "a", "score": 0.5}, {"prompt": "b", "score": 1.0}], "samples/first.json")

    experiment = client.get_experiment_by_name("stories")
    table = client.load_table(experiment.experiment_id, "samples/first.json")

    assert table.to_dict("list") == {"prompt": ["a", "b"], "score": [0.5, 1.0]}


def test_every_call_may_be_repeated(sink: MlflowSink, client: MlflowClient, tmp_path: Path) -> None:
    from tasks.tracking.events import DatasetLogged

    (tmp_path / "a.txt").write_text("hello")
    used = DatasetLogged(at_ms=0, name="d", digest="0" * 64, source="x", context="training")
    nan = MetricPoint(name="loss", value=math.nan, step=2, timestamp_ms=1000)
    batch = Batch(metrics=(POINT, nan), params=(("a", "1"),), tags=(("t", "x"),))
    for _ in range(2):
        run_id = sink.create_run(new_run()).run_id
        sink.log_batch(run_id, batch)
        sink.log_artifact(run_id, tmp_path / "a.txt", "folder")
        sink.log_input(run_id, used)
        sink.set_terminated(run_id, "FAILED", 99)

    (run,) = client.search_runs([client.get_experiment_by_name("stories").experiment_id])
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 2
    assert len(run.inputs.dataset_inputs) == 1
    assert (run.info.status, run.info.start_time, run.info.end_time) == ("FAILED", 77, 99)
    assert [file.path for file in client.list_artifacts(run.info.run_id, "folder")] == ["folder/a.txt"]


def test_a_run_is_created_once_however_often_its_journal_asks(sink: MlflowSink) -> None:
    assert sink.create_run(new_run("one")) == sink.create_run(new_run("one"))
    assert sink.create_run(new_run("one")) != sink.create_run(new_run("two"))


def test_a_param_conflict_is_refused_and_names_the_values(sink: MlflowSink) -> None:
    run_id = sink.create_run(new_run()).run_id
    sink.log_batch(run_id, Batch(params=(("seed", "0"),)))

    with pytest.raises(RefusedError, match="'old_value': '0', 'new_value': '1'") as caught:
        sink.log_batch(run_id, Batch(params=(("seed", "1"),)))
    assert not isinstance(caught.value, RunGoneError)


def test_a_run_that_was_deleted_or_never_was_is_gone(sink: MlflowSink, client: MlflowClient) -> None:
    run_id = sink.create_run(new_run()).run_id
    client.delete_run(run_id)

    for gone in (run_id, "0" * 32):
        with pytest.raises(RunGoneError):
            sink.log_batch(gone, Batch(metrics=(POINT,)))


def test_an_experiment_that_was_deleted_is_restored_for_a_new_run(
    sink: MlflowSink, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    first = sink.create_run(new_run("one"))
    client.delete_experiment(first.experiment_id)

    second = sink.create_run(new_run("two"))

    assert second.experiment_id == first.experiment_id
    assert client.get_experiment(first.experiment_id).lifecycle_stage == "active"
    assert "stories was deleted" in caplog.text


def test_a_run_that_a_stalled_server_made_twice_is_there_once_in_the_end(
    sink: MlflowSink, client: MlflowClient
) -> None:
    created = sink.create_run(new_run())
    client.create_run(created.experiment_id, tags={JOURNAL_TAG: "k"})

    sink.set_terminated(created.run_id, "FINISHED", 99)

    (run,) = client.search_runs([created.experiment_id])
    assert run.info.run_id == created.run_id


def test_an_experiment_with_a_strange_name_has_a_folder_all_the_same(
    sink: MlflowSink, client: MlflowClient, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("hello")
    created = sink.create_run(new_run(experiment="a/b: ü #1 ../.."))
    sink.log_artifact(created.run_id, tmp_path / "a.txt", "")

    assert [file.path for file in client.list_artifacts(created.run_id)] == ["a.txt"]
    (place,) = (tmp_path / "artifacts").iterdir()
    assert (place / created.run_id / "artifacts" / "a.txt").read_text() == "hello"


def test_a_locked_database_loses_nothing(database: str, tmp_path: Path, client: MlflowClient) -> None:
    spool = tmp_path / "spool"
    holder = sqlite3.connect(database.removeprefix("sqlite:///"))
    with Shipper(TrackingSettings(uri=database, flush_seconds=120), spool, tmp_path / "artifacts") as shipper:
        ref = create_run(spool, name="cell", experiment="stories")
        assert shipper.flush(120) == 0
        holder.execute("BEGIN EXCLUSIVE")
        for step in range(200):
            Run(ref).log_metrics({"loss": 1 / (step + 1)}, step=step)
        assert shipper.flush(1) == 200
        holder.rollback()
        assert shipper.flush(120) == 0
        run_id = shipper.run_id(ref)
    holder.close()

    assert [point.step for point in client.get_metric_history(run_id, "loss")] == list(range(200))


@pytest.mark.system
def test_a_database_locked_for_longer_than_mlflow_waits_loses_nothing(
    database: str, tmp_path: Path, client: MlflowClient, capfd: pytest.CaptureFixture[str]
) -> None:
    spool = tmp_path / "spool"
    holder = sqlite3.connect(database.removeprefix("sqlite:///"))
    with Shipper(TrackingSettings(uri=database, flush_seconds=120), spool, tmp_path / "artifacts") as shipper:
        ref = create_run(spool, name="cell", experiment="stories")
        assert shipper.flush(120) == 0
        holder.execute("BEGIN EXCLUSIVE")
        Run(ref).log_metrics({"loss": 1.0})
        assert shipper.flush(25) == 1
        holder.rollback()
        assert shipper.flush(120) == 0
        run_id = shipper.run_id(ref)
    holder.close()

    assert len(client.get_metric_history(run_id, "loss")) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_that_is_no_database_is_an_outage_and_no_refusal(sink: MlflowSink, database: str) -> None:
    run_id = sink.create_run(new_run()).run_id
    file = Path(database.removeprefix("sqlite:///"))
    file.write_bytes(b"damaged " * 10_000)

    with pytest.raises(UnavailableError):
        sink.log_batch(run_id, Batch(metrics=(POINT,)))


def test_what_mlflow_prints_about_a_failing_database_is_not_shown(
    sink: MlflowSink, database: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run_id = sink.create_run(new_run()).run_id
    with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        connection.execute("DROP TABLE metrics")

    with pytest.raises(UnavailableError, match="no such table"):
        sink.log_batch(run_id, Batch(metrics=(POINT,)))

    assert capfd.readouterr().err == ""


def test_the_text_of_a_failure_has_no_password(tmp_path: Path) -> None:
    from tasks.tracking.mlflow_sink import MlflowSink

    set_mlflow_defaults()

    with refusing_port() as port, pytest.raises(UnavailableError, match="refused") as caught:
        MlflowSink(f"http://user:canary@127.0.0.1:{port}", tmp_path).create_run(new_run())

    assert "canary" not in str(caught.value)


def test_an_existing_mlruns_folder_changes_nothing_and_none_is_made(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: MlflowClient
) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    (tmp_path / "with" / "mlruns" / "0").mkdir(parents=True)
    for place in ("with", "without"):
        monkeypatch.chdir(tmp_path / place)
        with Shipper(TrackingSettings(uri=database, flush_seconds=120), Path("spool"), Path("artifacts")):
            Run(create_run(Path("spool"), name="cell", experiment=place)).log_text("x", "x.txt")

        (run,) = client.search_runs([client.get_experiment_by_name(place).experiment_id])
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["x.txt"]

    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == ["artifacts", "spool"]
    assert list((tmp_path / "with" / "mlruns" / "0").iterdir()) == []


def test_refused_events_are_kept_as_json_with_mlflows_reason(database: str, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with Shipper(TrackingSettings(uri=database, flush_seconds=120), spool, tmp_path / "artifacts"):
        ref = create_run(spool, name="cell", experiment="stories")
        Run(ref).log_params({"seed": 0})
        Run(ref).log_params({"seed": 1})

    (line,) = beside(ref.journal, ".rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["refused"]["params"] == [["seed", "1"]]
