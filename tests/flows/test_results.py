"""What the shipped experiments promise, run whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.comparison.values import Comparison, ComparisonRow
from tests.flows.worlds import tuneline

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
PROJECT = Path(__file__).resolve().parents[2]
SHARED = PROJECT.parent / "shared"


def rows_of(folder: Path, name: str) -> dict[str, ComparisonRow]:
    path = folder / "runs" / "reports" / name / "comparison" / "comparison.json"
    return {row.kind: row for row in Comparison.model_validate_json(path.read_text(encoding="utf-8")).rows}


def test_the_demo_separates_the_methods(tmp_path: Path) -> None:
    done = tuneline(tmp_path, "run", str(PROJECT / "configs/experiments/demo.yaml"))
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path, "demo")
    exact = {kind: row.metrics["exact_match"] for kind, row in rows.items()}
    assert exact["none"] < 0.05
    assert exact["full"] > 0.9 and exact["lora"] > 0.8 and exact["qlora"] > 0.8
    for soft in ("prefix_tuning", "prompt_tuning"):
        assert exact["none"] < exact[soft] < exact["lora"]
    assert all("slot_f1" in row.metrics for row in rows.values())


@pytest.mark.cross
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real tiny model and the E2E data are not beside the project")
def test_on_the_real_model_and_data_every_method_beats_the_base_and_full_beats_lora(tmp_path: Path) -> None:
    (tmp_path / "shared").symlink_to(SHARED)
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(PROJECT / "configs/experiments/e2e-stories.yaml", folder)
    short = ("training.max_steps=150", "training.save_steps=150", "evaluation.metrics=[loss]", "evaluation.probe=null")
    done = tuneline(folder, "run", "e2e-stories.yaml", *short)
    assert done.returncode == 0, done.stderr
    loss = {kind: row.metrics["loss"] for kind, row in rows_of(folder, "e2e-stories").items()}
    assert loss["full"] < loss["lora"] < 1.2
    assert all(loss[kind] < loss["none"] for kind in loss if kind != "none")
