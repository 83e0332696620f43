"""The MLflow model folder: code instead of a pickle, plain weights, exact requirements, and sha256 of every file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from tasks.artifacts import write_durably
from tasks.data.templates import Renderer
from tasks.data.values import Turn
from tasks.foundation.digests import canonical_json, digest_file, digest_value, library_versions
from tasks.foundation.errors import IntegrityError
from tasks.foundation.values import Value
from tasks.models.loading import load_tokenizer
from tasks.registry.card import model_card
from tasks.registry.contents import SERVING
from tasks.registry.values import RegisterRequest

CODE = Path(__file__).with_name("serving_model.py")
_FILES = "files.json"
_FOLDER = "artifacts/package"
_PROBES = ("a", "  two  spaces\n", "{system} {prompt} {completion}", "中文，一句话。")


def requirements(serving: Mapping[str, Any]) -> list[str]:
    """Exact pip requirements of what serves, at the installed versions (`+cpu` and the like left out)."""
    names = ["mlflow", "safetensors", "tokenizers", "torch", "transformers"]
    names += ["accelerate", "peft"] if serving["adapter"] else ["accelerate"]
    names += ["bitsandbytes"] if serving["quantization"] else []
    return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(library_versions(*names).items())]


def signature(max_new_tokens: int) -> ModelSignature:
    """A column `prompt` of texts in, one text each out; `max_new_tokens` may be given."""
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("max_new_tokens", DataType.integer, max_new_tokens)]),
    )


class Package(Value):
    """A filled package folder and the digests of what is in it."""

    folder: Path
    files: dict[str, str]
    """Name in the folder -> sha256."""
    digest: str
    """sha256 over everything that serves: two equal ones answer alike."""

    @property
    def weights_digest(self) -> str:
        """sha256 over the names and sha256 of the safetensors files that training (or merging) left."""
        trained = ((Path(name), digest) for name, digest in self.files.items() if not name.startswith("base/"))
        return digest_value({path.name: digest for path, digest in trained if path.suffix == ".safetensors"})


def describe(folder: Path, request: RegisterRequest) -> Package:
    """Read every file once and name the package by all that decides its answers.

    The card is left out: it quotes the other cells' scores and times, which do not change what is served.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): digest_file(path) for path in paths}
    identity = {
        "files": files,
        "code": digest_file(CODE),
        "requirements": requirements(read_serving(folder)),
        "signature": signature(request.max_new_tokens).to_dict(),
        "example": request.example_prompt,
    }
    return Package(folder=folder, files=files, digest=digest_value(identity))


def read_serving(contents: Path) -> dict[str, Any]:
    """serving.json of a package folder."""
    settings: dict[str, Any] = json.loads((contents / SERVING).read_text(encoding="utf-8"))
    return settings


def build(request: RegisterRequest, package: Package, output: Path, metadata: Mapping[str, str]) -> None:
    """Write the MLflow model folder into `output` (which does not exist yet); the package is moved into it.

    MLflow copies every artifact twice through the temporary folder, so it is given the small file alone.
    """
    small = output.with_name("small") / "package"
    small.mkdir(parents=True)
    (package.folder / SERVING).rename(small / SERVING)
    mlflow.pyfunc.save_model(
        path=str(output),
        python_model=str(CODE),
        artifacts={"package": str(small)},
        signature=signature(request.max_new_tokens),
        input_example=({"prompt": [request.example_prompt]}, {"max_new_tokens": request.max_new_tokens}),
        pip_requirements=requirements(read_serving(small)),
        metadata=dict(metadata),
        mlflow_model=Model(run_id=request.run_id),
    )
    for part in sorted(package.folder.iterdir()):
        shutil.move(part, output / _FOLDER / part.name)
    _forget_local_paths(output)
    write_durably(output / "README.md", model_card(request))
    known = {f"{_FOLDER}/{name}": digest for name, digest in package.files.items()}
    write_durably(output / _FILES, canonical_json(_file_digests(output, known)) + "\n")


def _forget_local_paths(output: Path) -> None:
    """MLflow notes where artifacts came from; nobody else has that folder."""
    description = Model.load(str(output))
    flavor = description.flavors["python_function"]
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    flavor["model_code_path"] = CODE.name
    description.model_size_bytes = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    description.save(str(output / "MLmodel"))


def _file_digests(output: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Large files were read once; `known` has their digests."""
    names = (path.relative_to(output).as_posix() for path in sorted(output.rglob("*")) if path.is_file())
    return {name: known.get(name) or digest_file(output / name) for name in names}


def prove(output: Path, request: RegisterRequest) -> None:
    """Load the folder as a user would and compare it with the evaluation.

    Raises:
        IntegrityError: a prompt becomes other ids than in training, or the example gives another text than the
            evaluation saw.
    """
    loaded = mlflow.pyfunc.load_model(str(output), suppress_warnings=True)
    renderer = Renderer(load_tokenizer(request.candidate.base), request.data)
    for probe in (*_PROBES, request.example_prompt):
        expected = renderer.prompt_ids([Turn(role="user", content=probe)])
        if loaded.unwrap_python_model().prompt_ids(probe) != expected:
            raise IntegrityError(f"the package renders the prompt {probe[:60]!r} unlike the training did")
    if request.expected_answer is None:
        return
    text = loaded.predict({"prompt": [request.example_prompt]}, params={"max_new_tokens": request.max_new_tokens})[0]
    if text != request.expected_answer:
        raise IntegrityError(
            f"the package answers {text[:80]!r} where the evaluation saw {request.expected_answer[:80]!r}",
            where=request.label,
            fix="Evaluate the cell again on this machine",
        )
