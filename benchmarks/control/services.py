"""Rows 35 to 38 and 40: the network, the tracking server and the orchestrator are away."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.control.stage import BOUND_SECONDS, STEPS, Attempt, Case, Stage
from benchmarks.findings import Finding, Verdict
from benchmarks.parts.proxy import Mode, Proxy
from benchmarks.running import ROOT, environment
from benchmarks.servers import mlflow_server

_PATIENCE_SECONDS = 180.0
"""After which nobody looks at a terminal that says nothing."""

_OUTAGE_SECONDS = 20.0


def no_network(stage: Stage) -> Iterator[Finding]:
    """Row 35: a base that must be downloaded, from a hub that refuses, or swallows what it is asked."""
    modes: tuple[Mode, ...] = ("refuse", "black hole")
    for mode in modes:
        case = stage.case(f"row-35-{mode}")
        with Proxy(0) as hub:
            hub.turn(mode)
            attempt = _as_a_process(case, hub.uri)
        verdict: Verdict = "hangs" if attempt.code is None else "loud"
        saw = f"{attempt.ending} after {attempt.seconds:.0f} s" if attempt.code is not None else attempt.ending
        yield Finding(name="35", done=f"a base from the hub, which is away ({mode})", saw=saw, verdict=verdict)


def _as_a_process(case: Case, hub: str) -> Attempt:
    """The hub's address is read when the libraries are imported, so this one is not forked."""
    arguments = case.arguments(False, {"model": "somebody/some-model"})
    env = {name: value for name, value in environment(case.folder, threads=1).items() if name != "HF_HUB_OFFLINE"}
    started = time.monotonic()
    with case.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "plain_script.py"), *arguments],
            cwd=case.folder,
            env=env | {"HF_ENDPOINT": hub},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    with suppress(subprocess.TimeoutExpired):
        process.wait(_PATIENCE_SECONDS)
    attempt = Attempt(code=process.poll(), seconds=time.monotonic() - started, said=case.last_words())
    process.kill()
    process.wait()
    return attempt


def tracking_away_at_start(stage: Stage) -> Iterator[Finding]:
    """Row 36."""
    case = stage.case("row-36")
    with Proxy(0) as way:
        way.turn("refuse")
        attempt = case.run(changes={"tracking-uri": way.uri}, bound=_PATIENCE_SECONDS)
    words = f"exit {attempt.code} after {attempt.seconds:.0f} s without a step" if attempt.code else attempt.ending
    verdict: Verdict = "hangs" if attempt.code is None else "loud"
    yield Finding(name="36", done="MLflow is down at the start", saw=words, verdict=verdict)


def tracking_away_in_between(stage: Stage) -> Iterator[Finding]:
    """Row 37: away from the middle of training on, and back a little later."""
    modes: tuple[Mode, ...] = ("refuse", "error 500", "black hole")
    for mode in modes:
        case = stage.case(f"row-37-{mode}")
        attempt = _with_an_outage(case, f"pause-at-step:{STEPS // 2}", mode, back=True)
        done = f"MLflow is away for {_OUTAGE_SECONDS:.0f} s in training ({mode})"
        yield _after_outage("37", done, case, attempt)


def tracking_away_at_the_end(stage: Stage) -> Iterator[Finding]:
    """Row 38: away when the model is registered."""
    case = stage.case("row-38")
    attempt = _with_an_outage(case, "pause-before-registering", "refuse", back=False)
    found = _after_outage("38", "MLflow is down at the registration", case, attempt)
    versions = case.ask("select count(*) from model_versions")
    yield found.model_copy(update={"saw": f"{found.saw}; {versions} versions"})


def _with_an_outage(case: Case, wound: str, mode: Mode, *, back: bool) -> Attempt:
    with mlflow_server(case.folder) as port, Proxy(port) as way:
        running = case.start(wound, changes={"tracking-uri": way.uri, "register": "" if back else "plain"})
        _wait_for(case.folder / "reached")
        way.turn(mode)
        (case.folder / "go").touch()
        if back:
            time.sleep(_OUTAGE_SECONDS)
            way.turn("pass")
        return running.wait(_PATIENCE_SECONDS)


def _after_outage(row: str, done: str, case: Case, attempt: Attempt) -> Finding:
    trained = "the weights were saved" if case.digest() else "no weights were saved"
    steps, status = case.logged_steps(), case.ask("select status from runs")
    saw = f"{attempt.ending}; {trained}; MLflow has {steps} of {STEPS} losses and says {status}"
    if attempt.code:
        return Finding(name=row, done=done, saw=saw, verdict="loud")
    whole = steps == STEPS and status == "FINISHED"
    verdict: Verdict = "hangs" if attempt.code is None else "right" if whole else "silent"
    return Finding(name=row, done=done, saw=saw, verdict=verdict)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.05)


def no_such_thing(stage: Stage) -> Iterator[Finding]:
    """Rows that ask for something that the script has not."""
    for row, done, saw in (
        ("40", "the orchestrator's server is away in training", "it has none"),
        ("51", "a storm of output from a training process", "nobody reads it: it goes where the shell sends it"),
    ):
        yield Finding(name=row, done=done, saw=saw, verdict="not applicable")
