"""The command line as a person meets it: quick, short, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from flows.view import bars, clock, line
from tasks.workspace.board import CellState
from tests.flows.worlds import tuneline, write_experiment, write_world

HEAVY = ("torch", "transformers", "mlflow", "prefect", "peft", "datasets")
IMPORTS = """
import sys
from flows.cli import call
sys.argv = ["tuneline", *{arguments!r}]
code = call()
heavy = [name for name in {heavy!r} if name in sys.modules]
sys.exit(f"{{code}} {{heavy}}" if code or heavy else 0)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["validate", "toy.yaml"], ["methods"], ["methods", "lora"]]
)
def test_help_validate_and_methods_import_nothing_heavy(world: Path, arguments: list[str]) -> None:
    script = IMPORTS.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], cwd=world, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["rnu"], 10, "Did you mean 'run'?"),
        (["run"], 10, "Missing argument"),
        (["run", "nothing.yaml"], 10, "nothing.yaml"),
        (["run", "toy.yaml", "training.max_stps=3"], 10, "Did you mean max_steps"),
        (["validate", "toy.yaml", "methods.lora.lora_rank=3"], 10, "Use r."),
        (["run", "toy.yaml", "data.train=trian.csv"], 11, "train.csv"),
        (["run", "toy.yaml", "model.name_or_path=modle"], 12, "Did you mean model?"),
        (["run", "toy.yaml", "methods.prompt_tuning.num_virtual_tokens=4000"], 10, "Lower num_virtual_tokens"),
        (["methods", "lroa"], 10, "Did you mean lora?"),
        (["init", "nothing.csv"], 11, "nothing.csv"),
        (["show", "nothing"], 10, "nothing"),
        (["ui", "--mlflow-port", "99999"], 10, "1 to 65535"),
        (["ui", "--mlflow-port", "9", "--prefect-port", "9"], 10, "both pages"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_with_its_exit_code(world: Path, arguments: list[str], code: int, words: str) -> None:
    done = tuneline(world, *arguments)
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("tuneline: ") and words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_fault_that_there_is_not_is_one_line_before_anything_is_done(world: Path) -> None:
    done = tuneline(world, "run", "toy.yaml", TUNELINE_FAULT="train.stp:1:kill")
    assert (done.returncode, len(done.stderr.splitlines())) == (10, 1), done.stderr
    assert "TUNELINE_FAULT: train.stp:1:kill is no fault" in done.stderr and "train.step" in done.stderr
    assert not (world / "runs" / "artifacts").exists()


def test_bad_rows_fail_with_their_place_and_are_all_in_the_quarantine_file(tmp_path: Path) -> None:
    write_world(tmp_path)
    write_experiment(tmp_path, data={"train": "rows.jsonl", "eval": "dev.csv", "max_seq_length": 32})
    (tmp_path / "rows.jsonl").write_text('{"prompt": "w3", "completion": "w4"}\n{"prompt": "w5"}\nw6\n')
    done = tuneline(tmp_path, "run", "toy.yaml")
    assert done.returncode == 11
    assert "rows.jsonl:2" in done.stderr and len(done.stderr.splitlines()) == 1
    assert len((tmp_path / "runs/reports/toy/quarantine.jsonl").read_text().splitlines()) == 2


def test_init_writes_an_experiment_that_validates(world: Path) -> None:
    written = tuneline(world, "init", "train.csv", "model", "-o", "mine.yaml")
    assert written.returncode == 0, written.stderr
    checked = tuneline(world, "validate", "mine.yaml")
    assert (checked.returncode, "valid" in checked.stdout) == (0, True), checked.stderr
    again = tuneline(world, "init", "train.csv", "model", "-o", "mine.yaml")
    assert (again.returncode, "exists" in again.stderr) == (10, True)


def test_init_says_where_it_cannot_write_and_makes_a_name_of_any_file_name(world: Path) -> None:
    refused = tuneline(world, "init", "train.csv", "model", "-o", "nowhere/mine.yaml")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (10, 1), refused.stderr
    assert "nowhere/mine.yaml cannot be written" in refused.stderr
    written = tuneline(world, "init", "train.csv", "model", "-o", "My Own.yaml")
    assert written.returncode == 0, written.stderr
    assert written.stdout.endswith("tuneline run 'My Own.yaml'\n")
    assert "name: my-own\n" in (world / "My Own.yaml").read_text()


def test_the_pages_are_not_started_where_their_logs_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    done = tuneline(tmp_path, "ui", "--mlflow-port", "9", "--prefect-port", "10")
    assert (done.returncode, len(done.stderr.splitlines())) == (20, 1), done.stderr
    assert "TUNELINE_RUNS" in done.stderr


def test_a_state_is_one_line_of_80_columns_in_a_terminal_and_plain_text_elsewhere() -> None:
    state = CellState(label="a very long label of a cell", phase="train", done=75, total=300, loss=1.5, seconds_left=98)
    console = Console(width=80, file=open("/dev/null", "w", encoding="utf-8"), record=True)  # noqa: SIM115, PTH123
    console.print(bars([state]))
    shown = console.export_text().splitlines()
    assert len(shown) == 1 and len(shown[0]) <= 80
    assert "75/300" in shown[0] and "loss 1.500" in shown[0] and "1:38" in shown[0]
    assert line(state) == "a very long label of a cell: train 75/300 loss 1.500 1:38 left"


def test_times_are_written_as_clocks() -> None:
    assert (clock(5), clock(65), clock(7209)) == ("0:05", "1:05", "2:00:09")


def test_doctor_names_every_check(world: Path) -> None:
    done = tuneline(world, "doctor")
    assert done.returncode in (0, 20)
    for name in ("python", "torch", "mlflow"):
        assert name in done.stdout.lower()
