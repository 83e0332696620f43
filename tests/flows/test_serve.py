"""`tuneline serve` over a real registry, and the client example."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.flows.serving import MODEL, Served, Shop, ask, make_shop, serving
from tests.flows.worlds import tuneline
from tests.launch.worlds import alive, wait_until
from tests.ports import free_port, refusing_port
from tests.registry.test_serving import PLAIN
from tests.registry.worlds import PROMPT, direct_greedy, read_json

CLIENT = Path(__file__).resolve().parents[2] / "infra" / "serve" / "client.py"
CANARY = "canary-5b1f"
SECRETS = {"MLFLOW_TRACKING_PASSWORD": CANARY, "HF_TOKEN": CANARY, "MINE": f"postgresql://me:{CANARY}@host/db"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return make_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def served(shop: Shop) -> Iterator[Served]:
    """The champion, a prefix that cannot be merged; secrets stand in the environment of `tuneline serve`."""
    with serving(shop, MODEL, **SECRETS) as running:
        yield running


def package(shop: Shop, version: int) -> Path:
    """The folder of a version in MLflow's store."""
    (found,) = (each for each in shop.world.versions(MODEL) if int(each.version) == version)
    return shop.folder / "artifacts" / shop.world.run_id / "artifacts" / found.source.rpartition("/")[2]


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that `tuneline serve` has started, its warden included."""
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.system
def test_an_adapter_that_cannot_be_merged_answers_as_it_was_proven(shop: Shop, served: Served) -> None:
    body = {"dataframe_records": [{"prompt": PROMPT}, {"prompt": "zwei"}], "params": {"max_new_tokens": 7}}
    expected = [direct_greedy(shop.candidates[1], PLAIN, prompt, 7) for prompt in (PROMPT, "zwei")]
    assert ask(served.url, body) == {"predictions": expected}


@pytest.mark.system
def test_it_says_what_is_served_and_how_to_ask(shop: Shop, served: Served) -> None:
    text = "\n".join(served.said)
    assert "served version 1 (now champion)" in text
    assert shop.world.versions(MODEL)[0].tags["tuneline.package_sha256"] in text
    command = shlex.split(served.said[-1].removeprefix("Ask it"))
    assert command[:2] == ["curl", f"{served.url}/invocations"]
    assert ask(served.url, json.loads(command[-1])) == {
        "predictions": [direct_greedy(shop.candidates[1], PLAIN, PROMPT)]
    }


@pytest.mark.system
def test_many_at_once_get_what_each_gets_alone(served: Served) -> None:
    def answer(length: int) -> str:
        body = {"dataframe_records": [{"prompt": "ab " * length}], "params": {"max_new_tokens": 3 * length}}
        return str(ask(served.url, body)["predictions"][0])

    lengths = [1, 5, 2, 4, 3] * 4
    alone = {length: answer(length) for length in set(lengths)}
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(answer, lengths)) == [alone[length] for length in lengths]


@pytest.mark.system
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the environment of others is read from /proc")
def test_the_server_gets_no_secret_and_no_way_to_the_registry(shop: Shop, served: Served) -> None:
    for process in family(served.process):
        environment, command = process.environ(), process.cmdline()
        assert CANARY not in str(environment) + str(command)
        assert shop.world.tracking.uri not in str(command)
        if "tasks.launch.warden" not in command:
            assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
            assert "MLFLOW_TRACKING_URI" not in environment
    logs = [path.read_text() for path in (shop.folder / "runs" / "serve").glob("*.log")]
    assert logs and CANARY not in "".join(logs)


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(CLIENT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.system
def test_the_client_prints_the_answer(shop: Shop, served: Served) -> None:
    done = client(PROMPT, "--url", served.url, "--max-new-tokens", "5")
    assert (done.returncode, done.stdout.strip()) == (0, direct_greedy(shop.candidates[1], PLAIN, PROMPT, 5).strip())
    other = client(PROMPT, "--url", served.url, "--max-new-tokens", "5", "--system", "Be brief.")
    asked = {"prompt": PROMPT, "system": "Be brief."}
    assert ask(served.url, {"dataframe_records": [asked], "params": {"max_new_tokens": 5}})["predictions"] == [
        other.stdout.rstrip("\n")
    ]


@pytest.mark.system
def test_the_client_says_in_one_line_what_the_server_refused(served: Served) -> None:
    done = client(PROMPT, "--url", served.url, "--max-new-tokens", "0")
    assert done.returncode == 1 and "refused it (400)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_client_says_in_one_line_that_nobody_answers() -> None:
    with refusing_port() as port:
        done = client(PROMPT, "--url", f"http://127.0.0.1:{port}")
    assert done.returncode == 1 and "Is `tuneline serve` running there?" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.system
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_folder_is_served_without_a_registry_and_no_process_is_left(
    shop: Shop, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder = shutil.copytree(package(shop, 2), tmp_path / "model")
    with serving(shop, str(folder), MLFLOW_TRACKING_URI="http://127.0.0.1:9") as running:
        body = {"dataframe_records": [{"prompt": PROMPT}]}
        assert ask(running.url, body)["predictions"] == [direct_greedy(shop.candidates[2], PLAIN, PROMPT)]
        started = [process.pid for process in family(running.process)]
        running.process.send_signal(number)
        running.process.communicate(timeout=120)
        wait_until(lambda: not alive(started))
    assert len(started) >= 3, "the warden, MLflow's command and its server"
    assert running.process.returncode == code
    left = sorted(path.suffix for path in (shop.folder / "runs" / "serve").glob(f"{running.url.rpartition(':')[2]}*"))
    assert left == ([".lock", ".log", ".log"] if number == signal.SIGTERM else ["", ".lock", ".log", ".log"])


def refused(shop: Shop, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and message of a `tuneline serve` that does not come to serve."""
    variables.setdefault("MLFLOW_TRACKING_URI", str(shop.world.tracking.uri))
    done = tuneline(shop.folder, "serve", *arguments, **variables)
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("version", ["damaged", "damaged, and its list rewritten"])
def test_a_tampered_file_is_refused(shop: Shop, tmp_path: Path, version: str) -> None:
    adapter = package(shop, 2) / "artifacts" / "package" / "adapter" / "adapter_config.json"
    files = package(shop, 2) / "files.json"
    kept, listed = adapter.read_bytes(), files.read_bytes()
    try:
        adapter.unlink()  # it may be a second name of the trained file
        adapter.write_bytes(kept + b" ")
        if "rewritten" in version:
            digests = read_json(files) | {
                "artifacts/package/adapter/adapter_config.json": hashlib.sha256(kept + b" ").hexdigest()
            }
            files.write_text(json.dumps(digests))
        code, said = refused(shop, f"{MODEL}:2", "--port", str(free_port()))
    finally:
        adapter.write_bytes(kept)
        files.write_bytes(listed)
    assert code == 40
    assert re.search(r"its digest is" if "rewritten" in version else r"adapter_config\.json was changed", said)


@pytest.mark.system
def test_a_server_that_ends_by_itself_is_quoted(shop: Shop) -> None:
    code, said = refused(shop, MODEL, "--port", str(free_port()), MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT="never")
    assert code == 21 and "did not start: Error: Invalid value for '--timeout'" in said


def test_what_the_registry_lacks_is_said_by_cause(shop: Shop) -> None:
    port = str(free_port())
    assert refused(shop, "nobody", "--port", port)[0] == 10
    assert refused(shop, "$(touch canary)", "--port", port)[0] == 10
    assert not (shop.folder / "canary").exists(), "a name is no command"
    code, said = refused(shop, f"{MODEL}@second", "--port", port)
    assert code == 10 and "served has no alias second. Aliases: challenger (version 2), champion (version 1)" in said


def test_a_port_that_is_taken_is_said(shop: Shop, busy_port: int) -> None:
    code, said = refused(shop, MODEL, "--port", str(busy_port))
    assert (code, f"port {busy_port} is in use" in said) == (20, True)


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield int(held.getsockname()[1])


def test_an_address_of_another_machine_is_refused(shop: Shop) -> None:
    code, said = refused(shop, MODEL, "--host", "192.0.2.7", "--port", str(free_port()))
    assert (code, "192.0.2.7 is no address of this machine" in said) == (10, True)


def test_a_password_on_the_command_line_is_refused_and_not_repeated(shop: Shop) -> None:
    uri = f"http://me:{CANARY}@127.0.0.1:9"
    code, said = refused(shop, MODEL, "--uri", uri, "--port", str(free_port()))
    assert (code, "MLFLOW_TRACKING_PASSWORD" in said, CANARY in said) == (10, True, False)


def test_a_registry_that_is_away_is_said(shop: Shop) -> None:
    with refusing_port() as port:
        code, _ = refused(shop, MODEL, "--uri", f"http://127.0.0.1:{port}", "--port", str(free_port()))
    assert code == 21
