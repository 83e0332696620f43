from __future__ import annotations

from benchmarks.suite.checkpoints import figures_of


def cell(saves: bool, step: float) -> dict[str, object]:
    made = [{"ms": 40.0, "fsync_ms": 10.0, "fsyncs": 9, "bytes": 2**20}] * 2
    return {"kind": "lora", "saves": saves, "step_ms": step, "checkpoints": made if saves else made[:1]}


def test_overhead_is_the_step_with_checkpoints_over_the_step_without_on_both_sides() -> None:
    cells = [cell(True, 26.0), cell(False, 25.0), {"kind": "full", "saves": True, "step_ms": 99.0, "checkpoints": []}]
    plain = {"lora 100": (22.0,), "lora 100000": (20.0,)}
    ours, theirs, one, disk = figures_of("lora", cells, plain, (30.0,))
    assert (ours.ratio, ours.met) == (1.04, True)
    assert theirs.ratio == 1.1
    assert (one.ours, one.theirs) == ((40.0, 40.0), (30.0,)), "the last one of a training without them does not count"
    assert disk.ours == (10.0, 10.0)
    assert "1.0 MiB, 9 fsyncs each" in one.note
