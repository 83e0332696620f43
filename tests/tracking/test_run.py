"""What the writing side puts into a journal, seen at the other end: a server in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError, DataError
from tasks.tracking import MetricPoint, Run, RunRef, TrackingSettings, create_run
from tasks.tracking import run as run_module
from tasks.tracking.memory import MemoryRun, MemorySink
from tasks.tracking.shipper import Shipper

Arrive = Callable[[], MemoryRun]


@pytest.fixture
def ref(tmp_path: Path) -> RunRef:
    return create_run(tmp_path / "spool", name="cell", experiment="e", tags={"tuneline.method": "lora"})


@pytest.fixture
def arrive(tmp_path: Path, ref: RunRef) -> Arrive:
    """Send everything, and give what arrived."""

    def ship() -> MemoryRun:
        sink = MemorySink()
        with Shipper(TrackingSettings(flush_seconds=120), tmp_path / "spool", tmp_path, sink=sink):
            pass
        return sink.named("cell")

    return ship


def test_a_run_arrives_with_its_name_tags_and_source(ref: RunRef, arrive: Arrive) -> None:
    arrived = arrive()

    assert arrived.new.name == "cell"
    assert arrived.new.experiment == "e"
    assert arrived.tags["tuneline.method"] == "lora"
    assert arrived.tags["mlflow.source.name"] == "tuneline"
    assert arrived.tags["mlflow.user"]
    assert arrived.tags["tuneline.journal"] == ref.journal.stem
    assert arrived.status == "RUNNING"


def test_metrics_of_a_step_carry_the_time_of_the_call(ref: RunRef, arrive: Arrive) -> None:
    Run(ref, clock=lambda: 1234).log_metrics({"train/loss": 0.5, "perf/tokens": 3}, step=7)

    assert list(arrive().metrics.values()) == [
        MetricPoint(name="train/loss", value=0.5, step=7, timestamp_ms=1234),
        MetricPoint(name="perf/tokens", value=3.0, step=7, timestamp_ms=1234),
    ]


def test_a_series_that_a_retried_step_logs_again_is_there_once(ref: RunRef, arrive: Arrive) -> None:
    series = [MetricPoint(name="loss", value=1 / (step + 1), step=step, timestamp_ms=step) for step in range(2500)]
    Run(ref).log_metric_series(series)
    Run(ref).log_metric_series(series)

    assert list(arrive().metrics.values()) == series


def test_an_infinite_value_is_a_metric_and_a_tag_that_says_so(ref: RunRef, arrive: Arrive) -> None:
    Run(ref).log_metrics({"loss": float("-inf"), "other": float("nan")}, step=3)

    arrived = arrive()

    assert arrived.series("loss") == [(3, float("-inf"))]
    assert arrived.tags["tuneline.infinite.loss"] == "-inf at step 3"
    assert "tuneline.infinite.other" not in arrived.tags


def test_a_param_that_is_too_long_is_cut_and_there_in_full_as_an_artifact(ref: RunRef, arrive: Arrive) -> None:
    text = "é" * 7000
    Run(ref).log_params({"data": {"template": text}, "short": 1})

    arrived = arrive()

    assert arrived.params["short"] == "1"
    assert len(arrived.params["data.template"]) == 6000
    assert arrived.params["data.template"].endswith("(all 7000 characters: params/data.template.txt)")
    assert arrived.artifacts["params/data.template.txt"].decode() == text


def test_a_tag_that_is_too_long_is_cut_also_when_the_run_is_created_with_it(tmp_path: Path) -> None:
    sink = MemorySink()
    create_run(tmp_path, name="a", experiment="e", tags={"error": "x" * 9000})
    with Shipper(TrackingSettings(flush_seconds=120), tmp_path, tmp_path, sink=sink):
        pass

    assert len(sink.named("a").tags["error"]) == 8000
    assert sink.named("a").artifacts["tags/error.txt"] == b"x" * 9000


def test_a_file_may_be_changed_or_deleted_right_after_it_was_logged(
    tmp_path: Path, ref: RunRef, arrive: Arrive
) -> None:
    file, folder = tmp_path / "report.json", tmp_path / "report"
    file.write_text("as it was")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("deep")
    Run(ref).log_artifact(file, "data")
    Run(ref).log_artifact(folder)
    file.write_text("changed")
    (folder / "deep" / "a.txt").unlink()

    assert arrive().artifacts == {"data/report.json": b"as it was", "report/deep/a.txt": b"deep"}


def test_a_large_file_is_linked_and_survives_its_deletion(
    tmp_path: Path, ref: RunRef, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_LINK_BYTES", 10)
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"w" * 11)
    Run(ref).log_artifact(weights)
    assert weights.stat().st_nlink == 2
    weights.unlink()

    assert arrive().artifacts == {"weights.bin": b"w" * 11}


def test_what_was_sent_no_longer_lies_in_the_spool(ref: RunRef, arrive: Arrive) -> None:
    Run(ref).log_text("hello", "a/b.txt")

    assert arrive().artifacts == {"a/b.txt": b"hello"}
    assert list(ref.journal.with_name(f"{ref.journal.stem}.files").iterdir()) == []


def test_an_artifact_that_is_not_there_is_an_error_at_once(tmp_path: Path, ref: RunRef) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Run(ref).log_artifact(tmp_path / "nothing")


@pytest.mark.parametrize("path", ["/etc/passwd.json", "../up.json", "a/../../b.json", ""])
def test_an_artifact_cannot_be_written_outside_its_run(ref: RunRef, path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be an artifact"):
        Run(ref).log_text("x", path)


def test_tables_are_files_in_mlflows_form_and_all_named_in_its_tag(ref: RunRef, arrive: Arrive) -> None:
    Run(ref).log_table([{"prompt": "a", "bleu": float("nan")}, {"prompt": "b", "note": "质量"}], "samples/first.json")
    Run(ref).log_table([{"x": 1}], "second.json")

    arrived = arrive()

    assert json.loads(arrived.artifacts["samples/first.json"]) == {
        "columns": ["prompt", "bleu", "note"],
        "data": [["a", "nan", None], ["b", None, "质量"]],
    }
    assert json.loads(arrived.tags["mlflow.loggedArtifacts"]) == [
        {"path": "samples/first.json", "type": "table"},
        {"path": "second.json", "type": "table"},
    ]


def test_a_table_that_mlflow_could_not_show_is_an_error(ref: RunRef) -> None:
    with pytest.raises(ConfigError, match=r"\.json"):
        Run(ref).log_table([], "samples.csv")


def test_a_data_set_keeps_its_full_digest(ref: RunRef, arrive: Arrive) -> None:
    Run(ref).log_dataset("e2e", "ab" * 32, "data/train.csv", "training")

    arrived = arrive()

    assert arrived.datasets["e2e", "ab" * 32].source == "data/train.csv"
    assert arrived.tags["tuneline.dataset.training.e2e"] == "ab" * 32


def test_a_password_in_a_uri_reaches_neither_journal_nor_spool_nor_server(
    tmp_path: Path, ref: RunRef, arrive: Arrive
) -> None:
    uri = "http://user:canary@host/x"
    run = Run(ref)
    run.log_params({"tracking": {"uri": uri}})
    run.log_text(f"uri: {uri}", "config.yaml")
    run.log_table([{"uri": uri}], "t.json")
    run.log_dataset("d", "0" * 64, uri, "training")
    run.set_tags({"uri": uri})
    in_spool = b"".join(file.read_bytes() for file in (tmp_path / "spool").rglob("*") if file.is_file())

    arrived = arrive()

    assert b"canary" not in in_spool
    assert arrived.params["tracking.uri"] == "http://***@host/x"
    everything = f"{arrived.tags} {arrived.params} {arrived.artifacts} {arrived.datasets}"
    assert "canary" not in everything


def test_the_end_has_the_status_and_time_of_its_call_and_tags_may_follow(ref: RunRef, arrive: Arrive) -> None:
    Run(ref, clock=lambda: 99).finish("FAILED")
    Run(ref).set_tags({"registered": "3"})

    arrived = arrive()

    assert (arrived.status, arrived.ended_ms, arrived.tags["registered"]) == ("FAILED", 99, "3")
