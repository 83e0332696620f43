from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM

from benchmarks.running import ROOT, environment
from benchmarks.world import write_rows
from tests.models.tiny import write_tiny_llama


def test_the_plain_script_trains_and_leaves_an_adapter_that_loads(tmp_path: Path) -> None:
    base = write_tiny_llama(tmp_path / "model")
    for name in ("train.csv", "eval.csv"):
        write_rows(tmp_path / name, [(f"w{row} w{row + 1}", f"w{row + 1} w{row}") for row in range(3, 15)])
    done = run_plain(tmp_path, "--method", "lora", "--model", str(base), "--steps", "2", "--save-steps", "1")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"loss", "bleu"}
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out" / "weights")
    moved = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert moved
    assert all(bool(parameter.any()) for parameter in moved)
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert len(json.loads((tmp_path / "out" / "step_ends.json").read_text(encoding="utf-8"))) == 2


def run_plain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    common = ("--data", ".", "--output", "out", "--batch-size", "4", "--max-new-tokens", "2", "--report-to", "none")
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "plain_script.py"), *common, *arguments],
        cwd=folder,
        env=environment(folder, threads=1),
        capture_output=True,
        text=True,
        check=False,
    )
