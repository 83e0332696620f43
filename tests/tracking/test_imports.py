"""What the command line imports stays light."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "mlflow", "prefect", "datasets", "pandas", "sqlalchemy", "requests")


@pytest.mark.parametrize("module", ["tasks.tracking", "tasks.tracking.shipper", "tasks.tracking.memory"])
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
