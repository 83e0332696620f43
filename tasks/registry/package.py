"""The MLflow model folder: code instead of a pickle, plain weights, exact requirements, and sha256 of every file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.artifacts import write_durably
from tasks.foundation.digests import canonical_json, digest_file, digest_value, library_versions
from tasks.foundation.values import Value
from tasks.registry.card import model_card
from tasks.registry.intact import FOLDER, SERVING, Identity
from tasks.registry.server import FILES
from tasks.registry.values import Example, RegisterRequest

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

CODE = Path(__file__).with_name("serving_model.py")


def requirements(serving: Mapping[str, Any]) -> list[str]:
    """Exact pip requirements of what serves, at the installed versions (`+cpu` and the like left out)."""
    names = ["mlflow", "pandas", "safetensors", "tokenizers", "torch", "transformers"]
    names += ["accelerate", "peft"] if serving["adapter"] else ["accelerate"]
    names += ["pydantic"] if serving["loader"] else []
    names += ["bitsandbytes"] if serving["quantization"] else []
    return [f"{name}=={version.partition('+')[0]}" for name, version in sorted(library_versions(*names).items())]


def signature(max_new_tokens: int) -> ModelSignature:
    """Texts `prompt` (and `system`, where there is one) in, one text each out; `max_new_tokens` may be given."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "system", required=False)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec("max_new_tokens", DataType.integer, max_new_tokens)]),
    )


def columns(example: Example | None) -> dict[str, list[str]]:
    """An example as the served model takes it."""
    if example is None:
        return {"prompt": ["Hello"]}
    return {"prompt": [example.prompt]} | ({"system": [example.system]} if example.system else {})


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
    identity = Identity(
        files=files,
        code=digest_file(CODE),
        requirements=requirements(read_serving(folder)),
        signature=signature(request.max_new_tokens).to_dict(),
        example=columns(request.example),
    )
    return Package(folder=folder, files=files, digest=identity.digest)


def read_serving(contents: Path) -> dict[str, Any]:
    """serving.json of a package folder."""
    settings: dict[str, Any] = json.loads((contents / SERVING).read_text(encoding="utf-8"))
    return settings


def build(request: RegisterRequest, package: Package, output: Path, metadata: Mapping[str, str]) -> None:
    """Write the MLflow model folder into `output` (which does not exist yet); the package is moved into it.

    MLflow copies every artifact twice through the temporary folder, so it is given the small file alone.
    """
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    small = output.with_name("small") / "package"
    small.mkdir(parents=True)
    (package.folder / SERVING).rename(small / SERVING)
    mlflow.pyfunc.save_model(
        path=str(output),
        python_model=str(CODE),
        artifacts={"package": str(small)},
        signature=signature(request.max_new_tokens),
        input_example=(pd.DataFrame(columns(request.example)), {"max_new_tokens": request.max_new_tokens}),
        pip_requirements=requirements(read_serving(small)),
        metadata=dict(metadata),
        mlflow_model=Model(run_id=request.run_id),
    )
    for part in sorted(package.folder.iterdir()):
        shutil.move(part, output / FOLDER / part.name)
    _forget_local_paths(output)
    write_durably(output / "README.md", model_card(request))
    known = {f"{FOLDER}/{name}": digest for name, digest in package.files.items()}
    write_durably(output / FILES, canonical_json(_file_digests(output, known)) + "\n")


def _forget_local_paths(output: Path) -> None:
    """MLflow notes where artifacts came from; nobody else has that folder."""
    from mlflow.models import Model

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
