"""From a file to an experiment, and every way in which its content can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from configs.loading import InvalidExperimentError, load_experiment
from tasks.methods import all_methods
from tests.configs.worlds import SMALL, refused, written


def with_line(folder: Path, section: str, line: str) -> Path:
    """The small experiment with one more line in a section, or at the top level."""
    if section == "method":
        return written(folder, SMALL + f"  - {{kind: lora, {line}}}\n")
    if section == "data":
        return written(folder, SMALL.replace("data:\n", f"data:\n  {line}\n"))
    return written(folder, SMALL + (f"{section}: {{{line}}}\n" if section else f"{line}\n"))


def test_the_example_of_the_documentation_loads(tmp_path: Path) -> None:
    text = """\
name: e2e-stories
model:
  name_or_path: ../shared/models/stories260k
data:
  train: ../shared/data/e2e_nlg/trainset.csv
  eval: ../shared/data/e2e_nlg/devset.csv
  columns: {prompt: mr, completion: ref}
  max_train_rows: 2400
methods:
  - {kind: none}
  - {kind: full, learning_rate: 3.0e-3}
  - {kind: lora, r: 8, lora_alpha: 16, target_modules: all-linear, learning_rate: 1.0e-2}
training: {max_steps: 300, per_device_train_batch_size: 8, save_steps: 50, seeds: [0]}
evaluation: {metrics: [loss, bleu, rouge], max_new_tokens: 96}
tracking: {uri: "sqlite:///mlflow.db"}
registry: {model: e2e}
"""
    experiment = load_experiment(written(tmp_path, text), (), {})
    assert [method.kind for method in experiment.methods] == ["none", "full", "lora"]
    assert [method.learning_rate for method in experiment.methods] == [None, 3e-3, 1e-2]
    assert (experiment.training.max_steps, experiment.data.max_train_rows) == (300, 2400)


def test_an_experiment_survives_its_own_record(tmp_path: Path) -> None:
    experiment = load_experiment(written(tmp_path, SMALL), (), {})
    again = type(experiment).model_validate(experiment.model_dump(mode="json"))
    assert again == experiment
    assert again.methods[1].model_dump()["r"] == 8


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("my-run.yaml", "my-run"),
        ("My Run (2).yaml", "my-run-2"),
        ("中文.yaml", "experiment"),
        ("x" * 100 + ".yml", "x" * 64),
    ],
)
def test_without_a_name_the_file_gives_it(tmp_path: Path, file: str, name: str) -> None:
    assert load_experiment(written(tmp_path, SMALL, file), (), {}).name == name


@pytest.mark.parametrize("value", ["1e-2", "3.0e-3", "1.e-3", "0.01", "1", "'1e-2'"])
def test_a_number_is_a_number_in_every_spelling(tmp_path: Path, value: str) -> None:
    experiment = load_experiment(with_line(tmp_path, "training", f"learning_rate: {value}"), (), {})
    assert experiment.training.learning_rate == float(value.strip("'"))


def test_a_whole_number_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    assert load_experiment(with_line(tmp_path, "training", "max_steps: 1e3"), (), {}).training.max_steps == 1000


def test_a_section_whose_keys_are_all_commented_out_has_its_defaults(tmp_path: Path) -> None:
    empty = load_experiment(written(tmp_path, SMALL + "training:\n  # max_steps: 3\nregistry:\n"), (), {})
    assert empty == load_experiment(written(tmp_path, SMALL), (), {})


def test_the_environment_says_where_to_record_only_when_the_experiment_does_not(tmp_path: Path) -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://tracking:5000"}
    path = written(tmp_path, SMALL)
    assert load_experiment(path, (), environment).tracking.uri == "http://tracking:5000"
    assert load_experiment(path, ["tracking.uri=sqlite:///own.db"], environment).tracking.uri == "sqlite:///own.db"
    assert load_experiment(path, (), {}).tracking.uri == "sqlite:///mlflow.db"


@pytest.mark.parametrize(
    ("section", "line", "problem"),
    [
        ("method", "rr: 4", "a.yaml:7: methods[2].rr: unknown key. Did you mean r?"),
        ("", "trainning: {}", "a.yaml:7: trainning: unknown key. Did you mean training?"),
        ("", "max_steps: 4", "a.yaml:7: max_steps: unknown key. Did you mean training.max_steps?"),
        (
            "training",
            "max_new_tokens: 4",
            "a.yaml:7: training.max_new_tokens: unknown key. Did you mean evaluation.max",
        ),
        ("data", "colunms: {}", "a.yaml:3: data.colunms: unknown key. Did you mean columns?"),
        ("merge", "zzz: 1", "a.yaml:7: merge.zzz: unknown key. Allowed: enabled, rows, tolerance, max_shard_bytes."),
        ("", '"a\\nb": 1', 'a.yaml:7: "a\\nb": unknown key.'),
    ],
)
def test_an_unknown_key_suggests_the_right_one(tmp_path: Path, section: str, line: str, problem: str) -> None:
    assert refused(with_line(tmp_path, section, line))[0].startswith(problem)


@pytest.mark.parametrize(
    ("section", "line", "problem"),
    [
        ("method", "lora_rank: 4", "methods[2].lora_rank: unknown key. Use r."),
        ("method", "lora_target: all", "methods[2].lora_target: unknown key. Use target_modules."),
        ("method", "lr: 1", "methods[2].lr: unknown key. Use learning_rate."),
        ("method", "peft_type: LORA", "methods[2].peft_type: unknown key. Use kind."),
        ("", "lora_r: 4", "lora_r: unknown key. Use r inside the entry of methods that it belongs to."),
        ("", "target_modules: all", "target_modules: unknown key. Use target_modules inside the entry of methods"),
        ("", "base_model: x", "base_model: unknown key. Use model.name_or_path."),
        ("", "model_name_or_path: x", "model_name_or_path: unknown key. Use model.name_or_path."),
        ("", "cutoff_len: 4", "cutoff_len: unknown key. Use data.max_seq_length."),
        ("data", "cutoff_len: 4", "data.cutoff_len: unknown key. Use max_seq_length."),
        ("data", "sequence-len: 4", "data.sequence-len: unknown key. Use max_seq_length."),
        ("training", "max_length: 4", "training.max_length: unknown key. Use data.max_seq_length."),
        ("training", "micro_batch_size: 4", "training.micro_batch_size: unknown key. Use per_device_train_batch_size."),
        ("training", "num_epochs: 4", "training.num_epochs: unknown key. Use num_train_epochs."),
        ("training", "lr: 4", "training.lr: unknown key. Use learning_rate."),
        ("training", "seed: 4", "training.seed: unknown key. Use seeds."),
        ("training", "bf16: true", "training.bf16: unknown key. Use precision."),
        ("", "val_set_size: 4", "val_set_size: unknown key. Use data.eval_fraction."),
        ("", "dataset: x", "dataset: unknown key. Use data.train."),
        (
            "",
            "load_in_4bit: true",
            "load_in_4bit: unknown key. Use {kind: qlora} in methods: it quantises the base while",
        ),
        (
            "",
            "trust_remote_code: true",
            "trust_remote_code: unknown key. Remove it: code from a model's folder is never",
        ),
        (
            "training",
            "output_dir: x",
            "training.output_dir: unknown key. Remove it: outputs are named by their content",
        ),
    ],
)
def test_a_familiar_name_of_another_tool_gets_ours(tmp_path: Path, section: str, line: str, problem: str) -> None:
    assert problem in refused(with_line(tmp_path, section, line))[0]


def test_the_type_of_a_source_is_its_format(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL.replace("train: rows.jsonl", "train: [{path: a.json, type: alpaca}]"))
    assert refused(path) == ["a.yaml:3: data.train[0].type: unknown key. Use format."]


@pytest.mark.parametrize(
    ("section", "line", "problem"),
    [
        ("training", "max_steps: many", 'max_steps: "many" does not fit. Allowed: a whole number.'),
        ("training", "max_steps: 2.5", "max_steps: 2.5 does not fit. Allowed: a whole number."),
        ("training", "max_steps: 0", "max_steps: 0 does not fit. Allowed: above 0."),
        ("training", "max_steps: true", "max_steps: true does not fit. Allowed: a number."),
        ("training", "max_steps: [1]", "max_steps: a list of 1 does not fit. Allowed: a whole number."),
        ("training", f"max_steps: {'9' * 30}", f'training.max_steps: "{"9" * 30}" is not a number that can be read'),
        ("training", "learning_rate: fast", 'learning_rate: "fast" does not fit. Allowed: a number.'),
        ("training", "learning_rate: .inf", "learning_rate: Infinity does not fit. Allowed: a finite number."),
        ("training", "learning_rate: .nan", "learning_rate: NaN does not fit. Allowed: a finite number."),
        ("training", "learning_rate: 1e999", "learning_rate: Infinity does not fit. Allowed: a finite number."),
        ("training", "warmup_ratio: 1", "warmup_ratio: 1 does not fit. Allowed: below 1."),
        ("training", "warmup_ratio: -1", "warmup_ratio: -1 does not fit. Allowed: at least 0."),
        ("data", "max_bad_fraction: 2", "max_bad_fraction: 2 does not fit. Allowed: at most 1."),
        ("training", "optim: adamw", 'optim: "adamw" does not fit. Allowed: adamw_torch, adamw_torch_fused'),
        (
            "training",
            "precision: bfloat16",
            'precision: "bfloat16" does not fit. Allowed: auto, fp32, bf16, fp16. Did you',
        ),
        ("training", "seeds: []", "seeds: an empty list does not fit. Allowed: at least 1."),
        ("training", "seeds: 3", "seeds: 3 does not fit. Allowed: a list. Write [3]."),
        ("training", "seeds: [a]", 'seeds[0]: "a" does not fit. Allowed: a whole number.'),
        ("training", "save_steps:", "save_steps: has no value. Allowed: a whole number."),
        (
            "training",
            "gradient_checkpointing: maybe",
            'gradient_checkpointing: "maybe" does not fit. Allowed: true or fal',
        ),
        (
            "training",
            "gradient_checkpointing: {}",
            "gradient_checkpointing: a mapping does not fit. Allowed: true or fal",
        ),
        ("training", "save_steps: 5, logging_steps: 2", "training.logging_steps: 2 must divide save_steps (5)"),
        ("training", "keep_best: true", "training: keep_best and early_stopping_patience need eval_steps"),
        ("", "training: 5", "training: 5 does not fit. Allowed: a mapping."),
        ("", "training: [a]", "training: a list of 1 does not fit. Allowed: a mapping."),
        ("", "name: Upper Case", 'name: "Upper Case" does not fit. Allowed: lower-case letters, digits'),
        ("", "name: 12", "name: 12 does not fit. Allowed: text. Write it in quotes."),
        ("", "name: no", "name: false does not fit. Allowed: text. YAML reads yes, no, on and off as true and false"),
        ("", f"name: {'a' * 65}", "… is too long. Allowed: at most 64 characters."),
        ("evaluation", "labels: [yes, no]", "labels[0]: true does not fit. Allowed: text. YAML reads yes, no"),
        ("evaluation", "metrics: loss", 'metrics: "loss" does not fit. Allowed: a list. Write [loss].'),
        ("evaluation", "metrics: [blue]", 'evaluation.metrics[0]: no metric "blue". Allowed: '),
        ("evaluation", "metrics: [loss, bleu, loss]", 'evaluation.metrics[2]: "loss" stands twice. Keep one.'),
        ("data", "columns: [a]", "data.columns: a list of 1 does not fit. Allowed: a mapping."),
        ("data", "columns: {prompt: 3}", "data.columns.prompt: 3 does not fit. Allowed: text. Write it in quotes."),
        ("data", "template: no placeholders", "data.template: {prompt} is missing. Use {prompt} and {completion} once"),
        (
            "data",
            "revision: main",
            'data.revision: "main" does not fit. Allowed: the 40 hex digits (0-9, a-f) of a commit.',
        ),
        ("method", "r: 0", "methods[2].r: 0 does not fit. Allowed: above 0."),
        ("method", "name: [a]", "methods[2].name: a list of 1 does not fit. Allowed: text."),
    ],
)
def test_a_wrong_value_says_what_is_allowed(tmp_path: Path, section: str, line: str, problem: str) -> None:
    assert problem in refused(with_line(tmp_path, section, line))[0]


@pytest.mark.parametrize(
    ("methods", "problem"),
    [
        ("[{kind: loar}]", 'methods[0].kind: no method "loar". Allowed: '),
        ("[{kind: LoRA}]", "Did you mean lora?"),
        ("[{r: 8}]", "methods[0].kind: is missing. Allowed: "),
        ("[{kind: [a]}]", "methods[0].kind: "),
        ("[lora]", 'methods[0]: "lora" is not a mapping with a kind. Write {kind: lora}.'),
        ("[null]", "methods[0]: null is not a mapping with a kind. Write {kind: lora}."),
        ("lora", 'methods: "lora" does not fit. Allowed: a list. Write [lora].'),
        ("[]", "methods: an empty list does not fit. Allowed: at least 1."),
        ("", "methods: has no value. Allowed: a list."),
        ("{kind: lora}", "methods: a mapping does not fit. Allowed: a list."),
    ],
)
def test_methods_that_are_none_are_refused(tmp_path: Path, methods: str, problem: str) -> None:
    path = written(tmp_path, f"model: {{name_or_path: m}}\ndata: {{train: t}}\nmethods: {methods}\n")
    lines = refused(path)
    assert len(lines) == 1, "an entry that is wrong is not also a list that is too short"
    assert lines[0].startswith("a.yaml:3: methods")
    assert problem in lines[0]


@pytest.mark.parametrize(
    ("train", "problem"),
    [
        ("3", "data.train: 3 does not fit. Allowed: text or a list."),
        ("{path: a}", "data.train: a mapping does not fit. Allowed: text or a list. Put the mapping in a list: [{…}]."),
        ("[a.csv]", 'data.train[0]: "a.csv" does not fit. Allowed: a mapping. Write {path: a.csv}.'),
        ("[{weight: 2}]", "data.train[0].path: is missing. Allowed: A file, a glob, a hub id"),
        ("[{paht: a}]", "data.train[0].path: is missing"),
        ("[{path: a, weight: 0}]", "data.train[0].weight: 0 does not fit. Allowed: above 0."),
        ("[]", "data.train: an empty list names no rows. Name a file, or a list of {path: …}."),
        ("''", 'data.train: "" names no rows.'),
        ("", "data.train: has no value. Allowed: text or a list."),
    ],
)
def test_one_wrong_source_gives_one_message_without_the_other_spelling(
    tmp_path: Path, train: str, problem: str
) -> None:
    path = written(tmp_path, f"model: {{name_or_path: m}}\ndata:\n  train: {train}\nmethods: [{{kind: none}}]\n")
    lines = refused(path)
    assert problem in lines[0]
    assert len(lines) == 1 + ("paht" in train)


def test_a_missing_section_says_what_belongs_there(tmp_path: Path) -> None:
    assert refused(written(tmp_path, "methods: [{kind: none}]\n")) == [
        "a.yaml: model: is missing. Allowed: The base model. Add it.",
        "a.yaml: data: is missing. Allowed: What is read, and how rows become tokens. Add it.",
    ]


def test_a_missing_key_is_placed_at_its_section(tmp_path: Path) -> None:
    lines = refused(written(tmp_path, "model: {}\ndata: {train: t}\nmethods: [{kind: none}]\n"))
    assert lines[0].startswith("a.yaml:1: model.name_or_path: is missing. Allowed: A folder, a hub id")


def test_all_problems_are_kept_and_the_first_is_the_message(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL + "lr: 3\ntraining: {max_steps: x, optim: y}\n")
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment(path, (), {})
    assert len(caught.value.details) == 3
    assert str(caught.value).endswith("(2 more problems: `tuneline validate` lists all).")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_a_value_that_only_the_user_knows_must_be_filled_in(tmp_path: Path) -> None:
    text = SMALL.replace("some/folder}", "Org/model, revision: <fill in the commit>}")
    path = written(tmp_path, text)
    assert refused(path) == ["a.yaml:1: model.revision: is not filled in. Fill in the commit."]
    assert load_experiment(path, [f"model.revision={'a' * 40}"], {}).model.revision == "a" * 40


def test_secrets_and_long_values_are_cut(tmp_path: Path) -> None:
    line = refused(with_line(tmp_path, "training", f"optim: {'x' * 5000}"))[0]
    assert len(line) < 300


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.__name__)
def test_every_method_is_refused_by_name_line_and_key_when_a_setting_is_unknown(tmp_path: Path, method: type) -> None:
    kind = method.model_fields["kind"].default
    lines = refused(written(tmp_path, SMALL + f"  - {{kind: {kind}, no_such_thing: 1}}\n"))
    unknown = "a.yaml:7: methods[2].no_such_thing: unknown key. Allowed: kind, name, learning_rate"
    assert any(line.startswith(unknown) for line in lines)
