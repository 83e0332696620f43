"""The experiments that are shipped: they load, and the template shows every key with its default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from configs.checks import validate
from configs.engines import deepspeed_of
from configs.experiment import Experiment
from configs.loading import InvalidExperimentError, load_experiment
from configs.schema import key_paths
from tasks.data.settings import DataSource
from tasks.launch import Launcher, all_launchers, parse_launcher
from tasks.training.settings import TrainingSettings
from tests.configs.worlds import refused

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "configs" / "experiments"
ENGINES = ROOT / "configs" / "deepspeed"
ALL = sorted(EXPERIMENTS.glob("*.yaml"))
COMMIT = "0a" * 20
FILLED = [f"model.revision={COMMIT}", f"data.revision={COMMIT}"]
ON_THE_HUB = [EXPERIMENTS / f"hub-{where}.yaml" for where in ("one-gpu", "eight-gpus", "two-nodes-slurm")]
OF_THE_TEMPLATE = ["model.name_or_path=some/folder", "data.train=rows.jsonl"]


def load(path: Path) -> Experiment:
    """With what only the user knows filled in."""
    overrides = FILLED if path in ON_THE_HUB else OF_THE_TEMPLATE if path.stem == "template" else []
    return load_experiment(path, overrides, {})


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_shipped_experiment_loads_and_is_named_like_its_file(path: Path) -> None:
    experiment = load(path)
    assert experiment.name == path.stem
    assert experiment.methods[0].kind == "none"


@pytest.mark.parametrize(
    "path", [path for path in ALL if path.stem.startswith("demo") or path in ON_THE_HUB], ids=lambda path: path.stem
)
def test_a_shipped_experiment_validates(path: Path, tmp_path: Path) -> None:
    assert validate(load(path), {"TUNELINE_RUNS": str(tmp_path)}) == []


def test_the_experiment_on_real_data_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (ROOT.parent / "shared" / "models" / "stories260k").is_dir():
        pytest.skip("the real tiny model is not beside the project")
    monkeypatch.chdir(ROOT)
    experiment = load(EXPERIMENTS / "e2e-stories.yaml")
    assert validate(experiment, {"TUNELINE_RUNS": str(tmp_path)}) == []
    assert [method.kind for method in experiment.methods] == [
        "none", "full", "lora", "ia3", "prefix_tuning", "prompt_tuning", "qlora",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ON_THE_HUB, ids=lambda path: path.stem)
def test_a_hub_experiment_says_which_commits_to_fill_in(path: Path) -> None:
    lines = refused(path)
    assert [re.sub(r":\d+:", ":", line).partition(". Fill in the commit of")[0] for line in lines] == [
        f"{path.name}: model.revision: is not filled in",
        f"{path.name}: data.revision: is not filled in",
    ]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_shipped_file_holds_an_invented_commit(path: Path) -> None:
    assert not re.search(r"\b[0-9a-f]{40}\b", path.read_text(encoding="utf-8"))


def test_the_template_asks_for_the_model_and_the_data_and_nothing_else() -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        load_experiment(EXPERIMENTS / "template.yaml", (), {})
    assert [detail.where.split()[-1] for detail in caught.value.details] == ["model.name_or_path", "data.train"]


def uncommented_template() -> dict[str, dict[str, object]]:
    """The template with every `#key: value` switched on; text has a space after its #."""
    text = (EXPERIMENTS / "template.yaml").read_text(encoding="utf-8")
    text = "\n".join(line for line in text.splitlines() if not re.match(r"  #train:|    #[- ] ", line))
    loaded = yaml.safe_load(re.sub(r"(?m)^( *)#(?=[\w-])", r"\1", text))
    assert isinstance(loaded, dict)
    return loaded


def test_the_template_shows_every_key_with_its_default() -> None:
    shown = uncommented_template()
    defaults = load(EXPERIMENTS / "template.yaml").model_dump(mode="json")
    for path in key_paths(Experiment):
        section, *key = map(str, path)
        if key and path not in {("model", "name_or_path"), ("data", "train")}:
            assert shown[section][key[0]] == defaults[section][key[0]], path
    assert set(shown) == set(Experiment.model_fields)


@pytest.mark.parametrize("launcher", [name for name in all_launchers() if name != "local"])
def test_the_template_shows_every_key_of_a_launcher_with_its_default(launcher: str) -> None:
    text = (EXPERIMENTS / "template.yaml").read_text(encoding="utf-8")
    block = text.partition(f"  # With `launcher: {launcher}` ")[2].partition("\n  # With")[0].partition("\n\n")[0]
    shown = yaml.safe_load("\n".join(re.findall(r"(?m)^  #   (\w+: .*)$", block)))
    settings = parse_launcher({"launcher": launcher}).model_dump(mode="json")
    own = set(settings) - set(Launcher.model_fields)
    assert shown == {key: settings[key] for key in own}


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.json")), ids=lambda path: path.stem)
def test_a_shipped_deepspeed_configuration_is_a_strategy_that_leaves_the_experiment_to_decide(path: Path) -> None:
    settings = TrainingSettings(gradient_accumulation_steps=3, max_grad_norm=0.5)
    config = deepspeed_of(parse_launcher({"strategy": path.stem}), settings, "linux")
    assert config == json.loads(path.read_text(encoding="utf-8"))


def test_the_template_explains_every_key_and_every_choice() -> None:
    lines = (EXPERIMENTS / "template.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"  #?(\w+):", line):
            assert lines[number - 1].lstrip().startswith("# "), match[1]
    text = "\n".join(lines)
    assert "# one of: auto, float32, bfloat16, float16" in text


def test_the_template_shows_every_key_of_a_source() -> None:
    text = (EXPERIMENTS / "template.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^    #[- ] (\w+):", text)) == set(DataSource.model_fields)


def test_the_switched_on_template_is_a_valid_experiment(tmp_path: Path) -> None:
    everything = uncommented_template()
    everything["model"]["name_or_path"] = "some/folder"
    everything["data"]["train"] = "rows.jsonl"
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump(everything), encoding="utf-8")
    experiment = load_experiment(path, (), {})
    assert [method.kind for method in experiment.methods] == [method["kind"] for method in everything["methods"]]
