"""What the server refuses for good, and what is damaged, is put aside; the rest goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.tracking import Run, create_run
from tasks.tracking.journal import beside
from tasks.tracking.memory import MemorySink
from tasks.tracking.protocol import RefusedError
from tests.tracking.test_shipper import points, shipping


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def test_a_param_conflict_is_put_aside_with_its_reason_and_the_rest_goes_on(
    spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ref = create_run(spool, name="a", experiment="e")
    run = Run(ref)
    run.log_params({"seed": 0, "r": 8})
    run.log_params({"seed": 1, **{f"p{index}": index for index in range(150)}})
    run.log_metric_series(points(20))
    run.finish("FINISHED")
    sink = MemorySink()
    with shipping(spool, sink) as shipper:
        assert shipper.flush(120) == 0

    arrived = sink.named("a")
    assert arrived.params == {"seed": "0", "r": "8", **{f"p{index}": str(index) for index in range(150)}}
    assert list(arrived.metrics.values()) == points(20)
    assert arrived.status == "FINISHED"
    (line,) = beside(ref.journal, ".rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["refused"]["params"] == [["seed", "1"]]
    assert "seed is 0 already" in json.loads(line)["reason"]
    assert "refused a part of a run" in caplog.text


def test_a_run_that_is_refused_as_a_whole_is_put_aside_and_others_go_on(spool: Path) -> None:
    def fault(method: str, moment: str) -> None:
        if method == "create_run" and not refused:
            refused.append(method)
            raise RefusedError("no such experiment can be")

    refused: list[str] = []
    sink = MemorySink(fault)
    with shipping(spool, sink) as shipper:
        first = create_run(spool, name="refused", experiment="")
        Run(first).log_metrics({"loss": 1.0})
        assert shipper.flush(120) == 0
        create_run(spool, name="child", experiment="e", parent=first)
        assert shipper.flush(120) == 0

    reasons = [json.loads(line)["reason"] for line in beside(first.journal, ".rejected.jsonl").read_text().splitlines()]
    assert reasons == ["no such experiment can be", "its run could not be created"]
    assert sink.named("child").new.parent_run_id is None


def test_a_deleted_run_is_not_asked_for_entry_by_entry(spool: Path) -> None:
    calls: list[str] = []
    sink = MemorySink(lambda method, moment: calls.append(method))
    with shipping(spool, sink) as shipper:
        ref = create_run(spool, name="a", experiment="e")
        shipper.flush(120)
        sink.runs.clear()
        calls.clear()
        Run(ref).log_metric_series(points(1000))
        assert shipper.flush(120) == 0

    assert calls == ["log_batch"]
    assert "no run run0" in beside(ref.journal, ".rejected.jsonl").read_text()


def test_a_damaged_line_is_put_aside_and_the_rest_goes_on(spool: Path) -> None:
    ref = create_run(spool, name="a", experiment="e")
    with ref.journal.open("ab") as file:
        file.write(b"\x00\x00\xff damage\n")
    Run(ref).finish("FINISHED")
    sink = MemorySink()
    with shipping(spool, sink):
        pass

    assert sink.named("a").status == "FINISHED"
    assert "cannot be read" in beside(ref.journal, ".rejected.jsonl").read_text()


def test_a_damaged_cursor_sends_again_and_doubles_nothing(spool: Path) -> None:
    sink = MemorySink()
    with shipping(spool, sink):
        ref = create_run(spool, name="a", experiment="e")
        Run(ref).log_metric_series(points(10))
    beside(ref.journal, ".cursor.json").write_text("{")
    with shipping(spool, sink):
        pass

    assert len(sink.runs) == 1
    assert list(sink.named("a").metrics.values()) == points(10)
