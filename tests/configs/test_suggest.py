"""`tuneline init`: the text that it writes is an experiment that can start."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.checks import validate
from configs.experiment import Experiment
from configs.loading import load_experiment
from configs.suggest import suggest
from tasks.embedded import task_rows
from tasks.foundation.errors import ConfigError, DataError, ModelError
from tests.configs.models import write_model
from tests.configs.worlds import refused, written

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def rows_file(folder: Path, rows: list[dict[str, object]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def sound(folder: Path, text: str) -> Experiment:
    """The experiment, after it was found to have no problems."""
    experiment = load_experiment(written(folder, text, "suggested.yaml"), (), {})
    assert [str(problem) for problem in validate(experiment, {"TUNELINE_RUNS": str(folder / "runs")})] == []
    return experiment


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_model(tmp_path / "model"))


@pytest.mark.parametrize(
    ("task", "metrics"),
    [
        ("records-en", ("loss", "bleu", "rouge")),
        ("records-zh", ("loss", "chrf", "bleu")),
        ("sentiment-en", ("accuracy", "f1", "loss")),
        ("sentiment-zh", ("accuracy", "f1", "loss")),
    ],
)
def test_the_metrics_suit_the_answers(tmp_path: Path, model: str, task: str, metrics: tuple[str, ...]) -> None:
    path = rows_file(tmp_path, [dict(row) for row in task_rows(task, "dev")])
    assert sound(tmp_path, suggest(path, model)).evaluation.metrics == metrics


def test_raw_text_is_measured_by_its_loss_alone(tmp_path: Path, model: str) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("\n\n".join(f"Once upon a time there were {n} foxes." for n in range(30)), encoding="utf-8")
    experiment = sound(tmp_path, suggest(path, model))
    assert experiment.evaluation.metrics == ("loss",)
    assert experiment.name == "stories"


def test_two_columns_of_text_are_taken_for_prompt_and_answer_and_said_so(tmp_path: Path, model: str) -> None:
    path = tmp_path / "pairs.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("mr", "ref"), *((f"name[{n}]", f"This is {n}, a place.") for n in range(30))])
    text = suggest(path, model)
    assert sound(tmp_path, text).data.columns == {"prompt": "mr", "completion": "ref"}
    assert "check this" in text


def test_of_more_columns_only_the_user_knows_the_meaning(tmp_path: Path, model: str) -> None:
    path = rows_file(tmp_path, [{"a": "x", "b": "y", "c": str(n)} for n in range(20)])
    lines = refused(written(tmp_path, suggest(path, model)))
    assert "data.columns.prompt: is not filled in. Fill in the column with the input: a or b or c." in lines[0]
    assert "data.columns.completion: is not filled in." in lines[1]


def test_rates_are_the_methods_own_for_the_size_of_the_model(tmp_path: Path, model: str) -> None:
    path = rows_file(tmp_path, [{"prompt": f"p{n}", "completion": f"answer {n}"} for n in range(30)])
    experiment = sound(tmp_path, suggest(path, model))
    rates = {method.kind: method.learning_rate for method in experiment.methods}
    assert rates["none"] is None
    assert all(rate and rate > 1e-4 for kind, rate in rates.items() if kind != "none")


def test_rows_too_long_for_the_context_lose_the_left_end_of_the_prompt(tmp_path: Path, model: str) -> None:
    path = rows_file(tmp_path, [{"prompt": "p " * 500, "completion": f"answer {n}"} for n in range(30)])
    experiment = sound(tmp_path, suggest(path, model))
    assert (experiment.data.max_seq_length, experiment.data.truncation) == (128, "truncate")
    assert experiment.evaluation.max_new_tokens <= 64


def test_a_large_model_gets_a_quantised_method_and_no_full_fine_tuning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = write_model(tmp_path / "model")
    monkeypatch.setattr("configs.look._LARGE_PARAMETERS", 100)
    path = rows_file(tmp_path, [{"prompt": f"p{n}", "completion": f"answer {n}"} for n in range(30)])
    experiment = sound(tmp_path, suggest(path, str(large)))
    assert [method.kind for method in experiment.methods] == ["none", "lora", "qlora", "ia3"]
    assert experiment.training.gradient_checkpointing


def test_the_embedded_model_needs_no_folder(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [dict(row) for row in task_rows("records-en", "dev")])
    assert sound(tmp_path, suggest(path, "embedded:tiny-llama")).model.name_or_path == "embedded:tiny-llama"


def test_the_longest_answer_and_row_fit_into_the_embedded_models_small_tokens(tmp_path: Path) -> None:
    answer = "Orders usually arrive within two business days. Please contact our helpdesk."
    path = rows_file(tmp_path, [{"prompt": f"How long is delivery to {n}?", "completion": answer} for n in range(30)])
    sizes = {model: room_for_answers(suggest(path, model)) for model in ("embedded:tiny-llama", "Org/model-7B")}
    assert sizes["embedded:tiny-llama"] >= 50 > sizes["Org/model-7B"], "its 1,280 tokens hold about 1.7 letters each"


def room_for_answers(text: str) -> int:
    """`max_new_tokens` of a suggested experiment."""
    return int(text.partition("max_new_tokens: ")[2].split()[0])


def test_a_hub_model_asks_for_its_commit_and_nothing_else(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [{"prompt": f"p{n}", "completion": f"answer {n}"} for n in range(30)])
    lines = refused(written(tmp_path, suggest(path, "Org/model-7B")))
    assert len(lines) == 1
    assert "model.revision: is not filled in. Fill in the commit of huggingface.co/Org/model-7B" in lines[0]


def test_bad_rows_are_mentioned_and_still_found_by_validate(tmp_path: Path, model: str) -> None:
    rows: list[dict[str, object]] = [{"prompt": f"p{n}", "completion": f"answer {n}"} for n in range(30)]
    path = rows_file(tmp_path, [*rows, {"prompt": "p", "completion": ""}])
    text = suggest(path, model)
    assert "# Bad rows among the first ones: 1, for example" in text
    experiment = load_experiment(written(tmp_path, text), (), {})
    assert [problem.exit_code for problem in validate(experiment, {"TUNELINE_RUNS": str(tmp_path / "runs")})] == [11]


def test_a_file_whose_name_says_nothing_is_named_after_its_folder(tmp_path: Path, model: str) -> None:
    (tmp_path / "gsm8k").mkdir()
    rows: list[dict[str, object]] = [{"prompt": f"p{n}", "completion": f"a {n}"} for n in range(9)]
    path = rows_file(tmp_path / "gsm8k", rows, "train.jsonl")
    assert sound(tmp_path, suggest(path, model)).name == "gsm8k"
    assert sound(tmp_path, suggest(path, model, "mine")).name == "mine"


def test_a_name_that_is_none_is_refused(tmp_path: Path, model: str) -> None:
    path = rows_file(tmp_path, [{"prompt": "p", "completion": "a"}])
    with pytest.raises(ConfigError, match="Use my-own-name"):
        suggest(path, model, "My own name")


def test_missing_data_or_model_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(DataError):
        suggest(tmp_path / "nowhere.jsonl", model)
    with pytest.raises(ModelError):
        suggest(rows_file(tmp_path, [{"prompt": "p", "completion": "a"}]), str(tmp_path / "no-model"))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20),
    st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=12), min_size=2, max_size=3, unique=True),
)
def test_no_file_name_and_no_column_can_break_the_text(
    tmp_path_factory: pytest.TempPathFactory, stem: str, columns: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    try:
        path = rows_file(folder, [dict.fromkeys(columns, f"text {n}") for n in range(5)], f"{stem}.jsonl")
    except OSError:
        return
    path = path.rename(folder / "x.jsonl") if path.suffix != ".jsonl" else path
    text = suggest(path, "embedded:tiny-llama")
    file = written(folder, text, "suggested.yaml")
    try:
        assert load_experiment(file, (), {}).data.train == str(path)
    except ConfigError as error:
        assert "is not filled in" in str(error)


@pytest.mark.parametrize("data", ["e2e_nlg/trainset.csv", "gsm8k/train.jsonl", "alpaca_en/alpaca_en_demo.json"])
def test_real_data_and_a_real_model_give_an_experiment_that_can_start(tmp_path: Path, data: str) -> None:
    if not (SHARED / "data" / data).is_file():
        pytest.skip("the real data is not beside the project")
    sound(tmp_path, suggest(SHARED / "data" / data, str(SHARED / "models" / "stories260k")))
