"""What a rank sees of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.launch import GangJob
from tasks.launch.environment import rank_environment


def job(devices: tuple[str, ...] = (), threads: int | None = None) -> GangJob:
    path = Path("x")
    return GangJob(module="m", request=path, log=path, devices=devices, threads_per_rank=threads)


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "hub_token", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "PGPASSWORD"),
        *("MYSQL_PWD", "MLFLOW_TRACKING_PASSWORD", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS"),
        *("SSH_AUTH_SOCK", "KEY_PASSPHRASE", "GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_KEY", "SESSION_COOKIE"),
    ],
)
def test_a_variable_whose_name_tells_of_a_secret_is_not_passed_on(name: str) -> None:
    assert name not in rank_environment({name: "canary"}, job())


@pytest.mark.parametrize("value", ["http://user:canary@host/x", "postgresql://canary@db", "a,https://t:canary@host"])
def test_an_address_with_a_password_or_token_is_not_passed_on(value: str) -> None:
    assert "canary" not in str(rank_environment({"PROXY": value}, job()))


def test_the_rest_is_passed_on() -> None:
    kept = {"PATH": "/bin", "HOME": "/home/a", "PWD": "/work", "PYTHONPATH": "src", "URL": "http://host/x", "A": "a@b"}

    assert kept.items() <= rank_environment(kept, job()).items()


def test_a_rank_is_offline_and_hashes_the_same_every_time() -> None:
    environment = rank_environment({"HF_HUB_OFFLINE": "0", "PYTHONHASHSEED": "7"}, job())

    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PYTHONHASHSEED"] == "0"


@pytest.mark.parametrize(
    ("devices", "threads", "expected"),
    [((), None, "1"), ((), 3, "3"), (("0",), None, None), (("0",), 2, "2")],
)
def test_the_thread_count_is_fixed_on_cpu_and_where_it_is_set(
    devices: tuple[str, ...], threads: int | None, expected: str | None
) -> None:
    environment = rank_environment({}, job(devices, threads))

    assert environment.get("OMP_NUM_THREADS") == environment.get("MKL_NUM_THREADS") == expected


def test_the_devices_of_the_slot_replace_those_of_the_flow() -> None:
    assert rank_environment({"CUDA_VISIBLE_DEVICES": "0,1,2"}, job(("2", "1")))["CUDA_VISIBLE_DEVICES"] == "2,1"
    assert rank_environment({"CUDA_VISIBLE_DEVICES": "0,1,2"}, job())["CUDA_VISIBLE_DEVICES"] == "0,1,2"


@pytest.mark.parametrize(
    "name",
    [
        *("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE"),
        *("LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "PET_NNODES", "TUNELINE_OWNER", "TUNELINE_PARENT_PID"),
    ],
)
def test_the_place_in_another_gang_and_the_tokens_of_its_owner_are_not_passed_on(name: str) -> None:
    assert name not in rank_environment({name: "1"}, job())


@pytest.mark.parametrize("name", ["TRANSFORMER_RANK", "RANKS", "WORLD", "CARPET_SIZE", "TUNELINE_RUNS"])
def test_what_only_sounds_like_it_is_passed_on(name: str) -> None:
    assert rank_environment({name: "1"}, job())[name] == "1"
