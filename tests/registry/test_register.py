from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import requests
from mlflow import MlflowClient

from tasks.foundation.errors import ConfigError, DependencyError, IntegrityError
from tasks.methods import Candidate
from tasks.models import BaseModel
from tasks.registry import Example, server
from tasks.registry.register import register
from tasks.tracking import TrackingSettings
from tests.ports import refusing_port
from tests.registry.worlds import PROMPT, World, make_adapter, make_full, make_request, package_of


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_the_same_winner_twice_is_one_version_that_is_found_again(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), name)
    first = register(request, world.tracking, world.root)
    again = register(request, world.tracking, world.root)
    assert (first.version, first.cached) == (1, False)
    assert again == first.model_copy(update={"cached": True})
    assert len(world.versions(name)) == 1


def test_another_comparison_or_run_does_not_make_another_version(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    candidate = make_full(base, tmp_path / "model", 0)
    first = register(make_request(world, candidate, name), world.tracking, world.root)
    (tmp_path / "comparison.md").write_text("| other | table |")
    moved = candidate.model_copy(update={"weights": shutil.copytree(tmp_path / "model", tmp_path / "elsewhere")})
    changed = make_request(world, moved, name, run_id="another", comparison=tmp_path / "comparison.md")
    again = register(changed, world.tracking, world.root)
    assert (again.version, again.cached, again.run_id) == (1, True, first.run_id)


def test_other_weights_are_another_version_and_the_alias_follows(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    requests_made = [make_request(world, make_full(base, tmp_path / str(seed), seed), name) for seed in (0, 1)]
    for number, request in enumerate(requests_made, start=1):
        assert register(request, world.tracking, world.root).version == number
        assert alias(world, name) == str(number)
    back = register(requests_made[0], world.tracking, world.root)
    assert (back.version, back.cached, alias(world, name)) == (1, True, "1")


def alias(world: World, name: str) -> str:
    return str(world.client.get_model_version_by_alias(name, "challenger").version)


def test_another_limit_of_new_tokens_is_another_version(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), name, example=None)
    register(request, world.tracking, world.root)
    longer = request.model_copy(update={"max_new_tokens": 20})
    assert register(longer, world.tracking, world.root).version == 2


@pytest.mark.parametrize("call", ["log_artifacts", "create_registered_model", "create_model_version"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_row_11_killed_around_the_upload_or_the_version_the_next_run_ends_with_one_whole_version(
    world: World, base: BaseModel, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, call: str, moment: str
) -> None:
    """Fault injection: the client's own method is replaced by one that dies before or after the real call."""
    request = make_request(world, make_full(base, folder, 0), name)
    register_and_die(request, world, monkeypatch, call, moment)
    whole(world, name, request, register(request, world.tracking, world.root))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_row_12_killed_around_the_alias_it_stands_where_it_was_or_where_it_shall_and_the_version_is_the_same(
    world: World, base: BaseModel, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    register(make_request(world, make_full(base, folder / "old", 1), name), world.tracking, world.root)
    request = make_request(world, make_full(base, folder / "new", 0), name)
    register_and_die(request, world, monkeypatch, "set_registered_model_alias", moment)
    assert alias(world, name) == ("1" if moment == "before" else "2")
    again = register(request, world.tracking, world.root)
    assert (again.version, again.cached, alias(world, name), len(world.versions(name))) == (2, True, "2", 2)


def test_row_11_killed_in_the_middle_of_the_upload_the_next_run_completes_it(
    world: World, base: BaseModel, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault injection: half of the files arrive, one of them torn."""

    def torn(client: MlflowClient, run_id: str, source: str, target: str) -> None:
        for path in sorted(Path(source).rglob("*"))[:4]:
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes()[:5])
                client.log_artifact(run_id, str(folder / path.name), target)
        raise KilledError

    request = make_request(world, make_full(base, folder, 0), name)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifacts", torn)
        with pytest.raises(KilledError):
            register(request, world.tracking, world.root)
    whole(world, name, request, register(request, world.tracking, world.root))


def register_and_die(request: Any, world: World, monkeypatch: pytest.MonkeyPatch, call: str, moment: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, dying(getattr(MlflowClient, call), moment))
        with pytest.raises(KilledError):
            register(request, world.tracking, world.root)


def dying(real: Callable[..., Any], moment: str) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        if moment == "after":
            real(*arguments, **named)
        raise KilledError

    return call


def whole(world: World, name: str, request: Any, version: Any) -> None:
    """Exactly one version, the alias on it, and it verifies, loads and answers."""
    assert [int(each.version) for each in world.versions(name)] == [1]
    assert alias(world, name) == "1"
    model = mlflow.pyfunc.load_model(str(package_of(world, version)))
    assert model.predict(pd.DataFrame({"prompt": [PROMPT]})) == [request.example.answer]


def test_what_a_killed_run_left_in_the_scratch_folder_is_not_packaged(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    left = world.root / ".register" / "package"
    left.mkdir(parents=True)
    (left / "old.bin").write_bytes(b"\x80\x04old")
    version = register(make_request(world, make_full(base, tmp_path / "model", 0), name), world.tracking, world.root)
    assert not list(package_of(world, version).rglob("old.bin"))
    assert not (world.root / ".register").exists()


def test_a_package_that_answers_otherwise_than_the_evaluation_saw_is_not_registered(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    honest = make_full(base, tmp_path / "model", 0)
    other = make_full(base, tmp_path / "other", 1)
    request = make_request(world, honest, name)
    # The package is built from the weights at hand; the evaluation's engine would give the same, so both are changed.
    with pytest.raises(IntegrityError, match="the package answers"):
        register_with_other_engine(request, other, world)
    assert world.versions(name) == []


def register_with_other_engine(request: Any, other: Candidate, world: World) -> None:
    """The evaluation saw another model's answer, and its engine gives that again."""
    from tasks.registry import proof

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "load_candidate", lambda _, device: real_load(other, device))
        wrong = make_request(world, other, "unused").example
        register(request.model_copy(update={"example": wrong}), world.tracking, world.root)


def real_load(candidate: Candidate, device: str) -> Any:
    from tasks.methods.loading import load_candidate

    return load_candidate(candidate, device=device)


def test_a_batch_that_moved_a_word_is_reported_and_does_not_block(
    world: World, base: BaseModel, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    candidate = make_full(base, tmp_path / "model", 0)
    example = Example(prompt=PROMPT, answer="what a batch in 16 bits made of it")
    register(make_request(world, candidate, name, example=example), world.tracking, world.root)
    assert any("asked alone" in record.message for record in caplog.records)
    assert len(world.versions(name)) == 1


def test_the_untuned_base_is_refused(world: World, base: BaseModel, name: str) -> None:
    candidate = Candidate(label="none", base=base, method={"kind": "none"}, holds="nothing")
    with pytest.raises(ConfigError, match="untuned base"):
        register(make_request(world, candidate, name, example=None), world.tracking, world.root)


def test_an_adapter_without_its_weights_is_refused(world: World, base: BaseModel, tmp_path: Path, name: str) -> None:
    candidate = make_adapter("lora", base, tmp_path / "adapter")
    request = make_request(world, candidate, name, example=None)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors is missing"):
        register(request, world.tracking, world.root)


def test_a_run_that_mlflow_does_not_know_is_an_integrity_error(
    world: World, base: BaseModel, tmp_path: Path, name: str
) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), name, run_id="0" * 32)
    with pytest.raises(IntegrityError, match="Run the experiment again"):
        register(request, world.tracking, world.root)


def test_a_name_that_mlflow_refuses_is_a_configuration_error(world: World, base: BaseModel, tmp_path: Path) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), "a/b:c")
    with pytest.raises(ConfigError, match="registry"):
        register(request, world.tracking, world.root)


def test_row_38_a_server_that_is_down_costs_nothing_but_a_second_try(
    world: World, base: BaseModel, tmp_path: Path
) -> None:
    request = make_request(world, make_full(base, tmp_path / "model", 0), example=None)
    with (
        refusing_port() as port,
        pytest.raises(DependencyError, match=r"Nothing is lost: .* run the same command again") as caught,
    ):
        register(request, TrackingSettings(uri=f"http://someone:secret@127.0.0.1:{port}"), world.root)
    assert caught.value.exit_code == 21
    assert "secret" not in str(caught.value)


def test_row_38_a_server_that_accepts_and_never_answers_is_given_up(
    world: World, base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_ANSWER_SECONDS", 0.2)
    request = make_request(world, make_full(base, tmp_path / "model", 0), example=None)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        silent = TrackingSettings(uri=f"http://127.0.0.1:{hole.getsockname()[1]}")
        with pytest.raises(DependencyError, match="Nothing is lost"):
            register(request, silent, world.root)


def test_row_38_a_server_that_goes_away_in_between_is_a_dependency_error_and_the_next_run_completes(
    world: World, base: BaseModel, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault injection: the connection breaks while the version is created."""

    def gone(*_: Any, **__: Any) -> Any:
        raise requests.ConnectionError("connection reset")

    request = make_request(world, make_full(base, folder, 0), name)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", gone)
        with pytest.raises(DependencyError, match="connection reset"):
            register(request, world.tracking, world.root)
    whole(world, name, request, register(request, world.tracking, world.root))
