"""What a user of the registered model gets: the evaluation's text, in a process that has never heard of tuneline."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from transformers import AutoTokenizer

from tasks.data.settings import DataSettings
from tasks.data.templates import Renderer
from tasks.data.values import Turn
from tasks.models import BaseModel, ModelSettings, resolve_base
from tasks.models.loading import load_tokenizer
from tasks.registry.contents import fill
from tasks.registry.register import register
from tasks.registry.serving_model import TunedModel, asked
from tests.ports import free_port
from tests.registry.worlds import (
    PEFT_CONFIGS,
    PROMPT,
    World,
    direct_greedy,
    make_adapter,
    make_base,
    make_merged,
    make_request,
    package_of,
    read_json,
)

STORIES = Path(__file__).resolve().parents[2].parent / "shared" / "models" / "stories260k"
PLAIN = DataSettings(train="unused", use_chat_template=False)
CHATTY = (
    "{{ bos_token }}Today: {{ strftime_now('%d %B %Y') }}\n"
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRANGER = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tasks", "flows", "configs"):
            raise ImportError(f"{name} does not exist where models are served")

sys.meta_path.insert(0, Refuse())
import mlflow
import pandas as pd

uri, prompts, models = json.load(sys.stdin)
mlflow.set_tracking_uri(uri)
asked = pd.DataFrame({"prompt": prompts})
answers = {name: mlflow.pyfunc.load_model(f"models:/{name}@challenger").predict(asked) for name in models}
assert not {"tasks", "flows", "configs"} & set(sys.modules)
print(json.dumps(answers))
"""


def elsewhere(folder: Path) -> dict[str, str]:
    """An environment that knows neither the project nor its working directory."""
    hidden = ("PYTHONPATH", "MLFLOW_TRACKING_URI")
    own = {"HOME": str(folder), "OMP_NUM_THREADS": "1"}  # as in the tests: more would wait for each other
    return {name: value for name, value in os.environ.items() if name not in hidden} | own


def ask_stranger(folder: Path, uri: str, prompts: list[str], models: list[str]) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", STRANGER],
        input=json.dumps([uri, prompts, models]),
        cwd=folder,
        env=elsewhere(folder),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_every_kind_answers_as_direct_greedy_generation_where_tuneline_is_not_installed(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    candidates = [make_adapter(kind, base, tmp_path / kind) for kind in PEFT_CONFIGS]
    candidates.append(make_merged(base, tmp_path / "merged"))
    prompts, expected = [PROMPT, "zwei Wörter\n", "一句话"], {}
    for candidate in candidates:
        name = f"stranger-{candidate.label.replace(' ', '-')}"
        register(make_request(world, candidate, name), world.tracking, world.root)
        expected[name] = [direct_greedy(candidate, PLAIN, prompt) for prompt in prompts]
    shutil.rmtree(tmp_path / "merged")
    assert ask_stranger(tmp_path, world.tracking.uri, prompts, list(expected)) == expected
    assert len({answers[0] for answers in expected.values()}) >= 4, "the methods must differ for this to prove anything"


def test_the_real_model_with_a_merged_adapter_answers_as_direct_greedy_generation(world: World, tmp_path: Path) -> None:
    if not STORIES.is_dir():
        pytest.skip("the small real Llama is not on this machine")
    base = resolve_base(ModelSettings(name_or_path=str(STORIES)))
    candidate = make_merged(base, tmp_path / "merged")
    request = make_request(world, candidate, "stories", max_new_tokens=24)
    request = request.model_copy(
        update={"example": request.example and request.example.model_copy(update={"answer": answer_of(candidate, 24)})}
    )
    version = register(request, world.tracking, world.root)
    model = mlflow.pyfunc.load_model(str(package_of(world, version)))
    assert model.predict(pd.DataFrame({"prompt": [PROMPT]})) == [answer_of(candidate, 24)]


def answer_of(candidate: Any, new_tokens: int) -> str:
    return direct_greedy(candidate, PLAIN, PROMPT, new_tokens)


def test_the_folder_loads_wherever_it_is_moved(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    candidate = make_adapter("prompt_tuning", base, tmp_path / "adapter")
    version = register(make_request(world, candidate, name), world.tracking, world.root)
    shutil.copytree(package_of(world, version), tmp_path / "far" / "away")
    shutil.rmtree(tmp_path / "adapter")
    model = mlflow.pyfunc.load_model(str(tmp_path / "far" / "away"))
    request = make_request(world, make_adapter("prompt_tuning", base, tmp_path / "again"), name)
    assert request.example is not None
    assert model.predict([{"prompt": PROMPT}]) == [request.example.answer]


def test_requests_at_the_same_time_get_the_answers_that_they_get_alone(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    candidate = make_adapter("prefix_tuning", base, tmp_path / "adapter")
    version = register(make_request(world, candidate, name, example=None), world.tracking, world.root)
    model = mlflow.pyfunc.load_model(str(package_of(world, version)))

    def ask(length: int) -> str:
        answer: list[str] = model.predict(pd.DataFrame({"prompt": ["abc " * length]}), {"max_new_tokens": length * 4})
        return answer[0]

    lengths = [1, 6, 3, 5, 2, 4] * 4
    alone = {length: ask(length) for length in sorted(set(lengths))}
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(ask, lengths)) == [alone[length] for length in lengths]


def test_max_new_tokens_shortens_an_answer(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    candidate = make_adapter("prefix_tuning", base, tmp_path / "adapter")
    version = register(make_request(world, candidate, name), world.tracking, world.root)
    model = mlflow.pyfunc.load_model(str(package_of(world, version)))
    short = model.predict(pd.DataFrame({"prompt": [PROMPT]}), params={"max_new_tokens": 3})
    assert short == [direct_greedy(candidate, PLAIN, PROMPT, 3)]
    with pytest.raises(ValueError, match="at least 1"):
        model.predict(pd.DataFrame({"prompt": [PROMPT]}), params={"max_new_tokens": 0})


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_package_that_was_changed_after_registration_does_not_load(
    world: World, base: BaseModel, tmp_path: Path, name: str, damage: str
) -> None:
    candidate = make_adapter("lora", base, tmp_path / "adapter")
    version = register(make_request(world, candidate, name), world.tracking, world.root)
    weights = package_of(world, version) / "artifacts/package/adapter/adapter_model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "changed":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RuntimeError, match=r"adapter_model\.safetensors"):
        mlflow.pyfunc.load_model(str(package_of(world, version)))


def packaged_model(base: BaseModel, data: DataSettings, folder: Path, world: World) -> TunedModel:
    """The served class with the packaged settings and tokenizer, without weights."""
    candidate = make_adapter("prompt_tuning", base, folder / "adapter")
    (folder / "package").mkdir()
    fill(make_request(world, candidate, data=data, example=None), folder / "package")
    model = TunedModel()
    model.settings = read_json(folder / "package" / "serving.json")
    model.tokenizer = AutoTokenizer.from_pretrained(folder / "package" / model.settings["tokenizer"])
    return model


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        DataSettings(train="unused", use_chat_template=False, template="{system}|Q: {prompt} A: {completion} ."),
        DataSettings(train="unused"),
    ],
    ids=["plain", "plain with system", "chat template with a date"],
)
@pytest.mark.parametrize("system", ["", "Be brief. {prompt}"])
def test_prompts_become_the_ids_of_training(world: World, tmp_path: Path, data: DataSettings, system: str) -> None:
    base = make_base(tmp_path / "base", CHATTY if data.use_chat_template else None)
    model = packaged_model(base, data, tmp_path, world)
    renderer = Renderer(load_tokenizer(base), data)
    for prompt in ("a", " {system} {completion} ", "中文\n"):
        turns = [Turn(role="system", content=system)] if system else []
        assert model.prompt_ids(prompt, system) == renderer.prompt_ids([*turns, Turn(role="user", content=prompt)])


def test_the_stories_tokenizer_with_its_begin_token_gives_the_ids_of_training(world: World, tmp_path: Path) -> None:
    if not STORIES.is_dir():
        pytest.skip("the small real Llama is not on this machine")
    base = resolve_base(ModelSettings(name_or_path=str(STORIES)))
    model = packaged_model(base, PLAIN, tmp_path, world)
    ids = model.prompt_ids("Once upon a time")
    assert ids == Renderer(load_tokenizer(base), PLAIN).prompt_ids([Turn(role="user", content="Once upon a time")])
    assert ids[0] == load_tokenizer(base).bos_token_id


def test_a_prompt_without_room_is_refused_or_cut_from_the_left_as_in_training(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    model = packaged_model(base, PLAIN, tmp_path, world)
    room = 160 - 6
    assert model.fitting(list(range(room - 12)), 12) == list(range(room - 12))
    with pytest.raises(ValueError, match="exceed the model's 154 positions"):
        model.fitting(list(range(room - 11)), 12)
    model.settings["cut_prompts"] = True
    assert model.fitting(list(range(room)), 12) == list(range(12, room))


def test_prompts_come_from_frames_rows_lists_and_columns() -> None:
    assert asked(pd.DataFrame({"prompt": ["a", "b"], "system": ["s", None]})) == [("a", "s"), ("b", "")]
    assert asked(["a", {"prompt": "b", "system": "s"}]) == [("a", ""), ("b", "s")]
    assert asked(pd.DataFrame([{"prompt": ["a", "b"], "system": ["s", "t"]}])) == [("a", "s"), ("b", "t")]
    with pytest.raises(ValueError, match="must be a text"):
        asked([{"prompt": 3}])


@contextmanager
def served(world: World, name: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` on a free port; ends with the block."""
    port = str(free_port())
    scripts = str(Path(sys.executable).parent)
    environment = elsewhere(folder) | {"MLFLOW_TRACKING_URI": world.tracking.uri}
    environment["PATH"] = f"{scripts}{os.pathsep}{environment['PATH']}"
    command = ["mlflow", "models", "serve", "-m", f"models:/{name}@challenger", "--env-manager", "local", "-p", port]
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 200
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the model server did not come up")


@pytest.mark.system
def test_mlflow_models_serve_gives_the_same_text_over_http(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    candidate = make_adapter("prefix_tuning", base, tmp_path / "adapter")
    register(make_request(world, candidate, name), world.tracking, world.root)
    with served(world, name, tmp_path) as url:
        body = json.dumps({"dataframe_records": [{"prompt": PROMPT}], "params": {"max_new_tokens": 8}}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            assert json.load(answer) == {"predictions": [direct_greedy(candidate, PLAIN, PROMPT, 8)]}
