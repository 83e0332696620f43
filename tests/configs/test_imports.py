"""What the command line pays for an experiment that it only reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.configs.worlds import SMALL, written

HEAVY = (
    "{'torch', 'transformers', 'peft', 'datasets', 'mlflow', 'prefect', 'pyarrow', 'scipy', 'matplotlib', 'sacrebleu'}"
)


@pytest.mark.parametrize(
    "work",
    [
        "import configs.suggest",
        "from configs.loading import load_experiment; load_experiment(path, ['training.max_steps=3'])",
        "from configs.loading import load_experiment; from configs.checks import validate;"
        "assert validate(load_experiment(path))",
    ],
    ids=["suggest", "load", "validate"],
)
def test_reading_and_checking_an_experiment_imports_no_heavy_library(tmp_path: Path, work: str) -> None:
    code = (
        f"import sys; from pathlib import Path; path = Path({str(written(tmp_path, SMALL))!r}); {work};"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
