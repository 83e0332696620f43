"""Which modules a module needs is read from files."""

from __future__ import annotations

import subprocess
import sys

from tasks.foundation.imports import imported_by, needed_within


def test_what_functions_import_counts_and_what_is_imported_is_a_module_or_a_thing_in_one() -> None:
    needed = needed_within("tasks.methods", "tasks.methods.lora")
    assert {"tasks.methods.lora", "tasks.methods._lora.method", "tasks.methods._lora.init"} <= set(needed)
    assert not any(name.rpartition(".")[2][0].isupper() for name in needed), "a class is no module"
    assert imported_by("tasks.methods.lora").keys() > set(needed), "the packages above count too"


def test_to_know_what_is_needed_nothing_of_it_is_imported() -> None:
    """A run whose cells are all done plans in milliseconds; torch and PEFT alone take seconds."""
    asked = "needed_within('tasks.methods', 'tasks.methods.lora'); imported_by('tasks.methods.loading')"
    code = f"import sys; from tasks.foundation.imports import *; {asked}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
