"""The image that serves, as far as it can be judged without an engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVE = ROOT / "infra" / "serve"
REQUIREMENTS = (SERVE / "requirements.txt").read_text().split("\n", 1)[1].split()
CONSTRAINTS = dict(
    line.lower().replace("_", "-").split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line
)
LEFT_OUT = ("prefect", "datasets", "deepspeed", "sacrebleu", "rouge_score")
"""What the project needs, but neither serving nor what serving needs: the image does without."""
IMPORTS = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.partition(".")[0] in sys.argv[1:] else find(name, *rest)
)
import flows.cli, flows.commands.serve, tasks.tracking.lookup, tasks.registry.serving_model
import accelerate, bitsandbytes, peft, sentencepiece, mlflow.pyfunc.scoring_server, uvicorn
"""


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of every instruction, continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", (SERVE / "Dockerfile.serve").read_text(), flags=re.MULTILINE)
    lines = (line for line in text.replace("\\\n", " ").splitlines() if line.strip())
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def the(keyword: str) -> str:
    (found,) = (rest for word, rest in instructions() if word == keyword)
    return found


def test_the_base_is_pinned_and_its_python_is_one_that_the_project_supports() -> None:
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", the("FROM"))


def test_it_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    words = [word for word, _ in instructions()]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", the("USER")), "a number, so that Kubernetes can see it is not root"
    assert words.index("USER") > max(place for place, word in enumerate(words) if word == "RUN")
    assert "http://127.0.0.1:5001/ping" in the("HEALTHCHECK") and the("EXPOSE") == "5001"


def test_what_it_writes_lies_in_one_folder() -> None:
    variables = " ".join(rest for word, rest in instructions() if word == "ENV")
    folder = the("VOLUME")
    for name in ("HOME", "HF_HOME", "TUNELINE_RUNS"):
        assert re.search(rf"\b{name}={folder}", variables), name


def test_no_secret_is_built_in_and_nothing_travels_that_is_not_named() -> None:
    set_in_it = " ".join(rest for word, rest in instructions() if word in ("ENV", "ARG", "LABEL"))
    assert not re.search(r"TOKEN|SECRET|PASSW|_KEY|://[^\s/]*@", set_in_it)
    copied = [rest for word, rest in instructions() if word in ("COPY", "ADD")]
    ignored = (SERVE / "Dockerfile.serve.dockerignore").read_text().split()
    assert ignored[0] == "*", "no .git, no runs, no .env"
    for rest in copied:
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists() and f"!{source}" in ignored, source


def test_every_library_is_pinned() -> None:
    for _, rest in instructions():
        for command in re.findall(r"pip install ([^&]*)", rest):
            assert "-c constraints.txt" in command or "--no-deps" in command, command
    assert sorted(REQUIREMENTS) == REQUIREMENTS
    assert not [name for name in REQUIREMENTS if name not in CONSTRAINTS]


def test_the_entry_is_the_command_that_a_person_types() -> None:
    command = json.loads(the("ENTRYPOINT")) + json.loads(the("CMD"))
    assert command[:2] == ["tuneline", "serve"] and command[-1] == "/model"
    done = subprocess.run(
        [sys.executable, "-m", "flows", *command[1:]], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, "/model is no folder" in done.stderr) == (12, True), done.stderr


def test_serving_does_without_what_the_image_leaves_out() -> None:
    assert not {name.replace("_", "-") for name in LEFT_OUT} & set(REQUIREMENTS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS, *LEFT_OUT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
