from __future__ import annotations

import subprocess
import sys


def test_naming_an_evaluation_needs_no_heavy_library() -> None:
    probe = (
        "import sys; import tasks.evaluation;"
        "heavy = {'torch', 'transformers', 'peft', 'pyarrow', 'datasets', 'mlflow', 'prefect'} & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
