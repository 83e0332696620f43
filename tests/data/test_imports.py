import subprocess
import sys

HEAVY = ("datasets", "numpy", "peft", "pyarrow", "torch", "transformers")


def test_looking_at_data_imports_nothing_heavy() -> None:
    code = f"import sys, tasks.data, tasks.data.prepare; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
