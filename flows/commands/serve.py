"""`tuneline serve`: one version of a registered model, verified, behind MLflow's own server."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from configs.experiment import Paths
from flows.guarding import log_to
from flows.model_server import ModelServer, Place, ask_line, taken
from tasks.artifacts.scratch import scratch_folder
from tasks.foundation.errors import ConfigError
from tasks.registry.fetch import FetchedModel, fetch_version, find_version, parse_wanted, verified
from tasks.tracking import TrackingSettings, redact

CHAMPION = "champion"
_SHOWN_CHARACTERS = 200
_HERE = ("127.0.0.1", "localhost", "::1")


def serve_model(model: str, place: Place, uri: str | None, console: Console) -> None:
    """Serve a version (`NAME[@ALIAS|:VERSION]`), or the folder of a downloaded one, until Ctrl-C.

    Raises:
        ConfigError: there is no such version, or no such address.
        IntegrityError: a file is not what was registered.
        ResourceError: the port is taken, or memory or disk ran out.
        DependencyError: MLflow does not answer, or the server ended by itself.
    """
    place.check_free()
    _refuse_secrets(uri)
    runs = Paths.from_environment(os.environ).runs.absolute()
    log_to(runs / "serve" / f"{place.port}.log")
    with _scratch(runs / "serve", place.port) as scratch:
        found = _folder(Path(model), console) if "/" in model else _version(model, uri, scratch, console)
        log = runs / "serve" / f"{place.port}-server.log"
        with ModelServer(found.folder, place, scratch, log) as server:
            server.wait_until_up()
            _say(f"Serving   {place.url}    Ctrl-C ends it; its log is {log}", console)
            if place.host not in _HERE:
                _say("          It asks nobody for a password: let only those reach it who may use it.", console)
            _say(f"Ask it    {ask_line(place, _prompt(found.folder))}", console)
            server.wait_until_ended()


def _version(model: str, uri: str | None, scratch: Path, console: Console) -> FetchedModel:
    wanted = parse_wanted(model, CHAMPION)
    from tasks.tracking.lookup import Lookup

    lookup = Lookup(TrackingSettings(uri=uri) if uri else TrackingSettings())
    version = find_version(lookup, wanted)
    meant = f" (now {wanted.alias})" if wanted.alias else ""
    _say(f"Model     {version.name} version {version.version}{meant} of {redact(lookup.uri)}", console)
    (scratch / "model").mkdir()
    found = fetch_version(lookup, version, scratch / "model")
    _say_verified(found, console)
    return found


def _folder(folder: Path, console: Console) -> FetchedModel:
    found = verified(folder.absolute())
    _say(f"Model     {folder}", console)
    _say_verified(found, console)
    return found


def _say_verified(found: FetchedModel, console: Console) -> None:
    held = "its adapter on the base" if found.holds == "adapter" else "a whole model"
    _say(f"Verified  every file; package sha256 {found.digest}", console)
    _say(f"Loading   {found.method}: {held}", console)


def _prompt(model: Path) -> str:
    """What was asked when the version was proven."""
    example = json.loads((model / "serving_input_example.json").read_text(encoding="utf-8"))
    split = example["dataframe_split"]
    prompt = str(split["data"][0][split["columns"].index("prompt")])
    return prompt if len(prompt) <= _SHOWN_CHARACTERS else "Hello"


@contextmanager
def _scratch(folder: Path, port: int) -> Iterator[Path]:
    """Where the files of the server at a port lie."""
    try:
        with scratch_folder(folder / str(port), wait_seconds=0) as scratch:
            yield scratch
    except Timeout:
        raise taken(port) from None


def _refuse_secrets(uri: str | None) -> None:
    if uri is not None and redact(uri) != uri:
        fix = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the whole URI as MLFLOW_TRACKING_URI"
        raise ConfigError("a password on the command line is shown to everybody by ps", where="--uri", fix=fix)


def _say(line: str, console: Console) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
