"""A person at the pages of the team's stack: from a form to the champion in MLflow's registry, and back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import needs_chromium
from tests.flows.serving import ask
from tests.flows.worlds import started
from tests.launch.worlds import wait_until
from tests.ports import free_port
from tests.services.person import END_MILLISECONDS, Person, person_at
from tests.services.stack import Furnish, RunningStack, processes_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), needs_chromium]

FULL = {"methods": [{"kind": "full", "learning_rate": 1e-3}]}

EVENTS = """
import sys
from prefect import get_client
wanted = {"filter": {"event": {"prefix": ["tuneline.candidate.", "tuneline.model."]}}}
with get_client(sync_client=True) as client:
    events = client.request("POST", "/events/filter", json=wanted).json()["events"]
sys.stdout.write("\\n".join(f"{one['event']} {one['resource']['prefect.resource.id']}" for one in events))
"""


@pytest.fixture(scope="module")
def stack(furnish: Furnish) -> RunningStack:
    """With an experiment and a gate that wants a person, in the worker's folder."""
    furnished = furnish("toy", **FULL)
    (furnished.folder / "asks.yaml").write_text("approval: required\n", encoding="utf-8")
    return furnished


def tuneline(stack: RunningStack, *arguments: str) -> str:
    """In a shell that has sourced the stack's `env`."""
    done = subprocess.run(
        [sys.executable, "-m", "flows", *arguments],
        cwd=stack.folder,
        env=stack.client_environment() | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def events(stack: RunningStack) -> list[str]:
    """What automations and webhooks could hear of models, with the model's name on Prefect's bus."""
    command = [sys.executable, "-c", EVENTS]
    return subprocess.run(
        command, cwd=stack.folder, env=stack.client_environment(), capture_output=True, text=True, check=True
    ).stdout.splitlines()


def compare(person: Person, **overrides: Any) -> str:
    """Trigger the comparison from its form; the id of the flow run, whose page is open then."""
    person.open_form("compare-methods")
    person.choose("experiment", "experiments/toy.yaml")
    person.write(overrides=json.dumps(overrides))
    person.look("form")
    return person.submit()


def aliases_of(person: Person) -> dict[str, str]:
    """Version -> aliases, as MLflow's page of the model shows them."""
    person.page.goto(f"{person.mlflow}/#/models/toy")
    rows = person.page.get_by_role("row").filter(has_text=re.compile("Version [0-9]"))
    rows.filter(has_text=re.compile(r"@\s*(champion|challenger)")).first.wait_for()
    found = [re.search(r"Version (\d+)", row) for row in rows.all_inner_texts()]
    shown = [" ".join(sorted(re.findall(r"@\s*(\w+)", row))) for row in rows.all_inner_texts()]
    person.look("registry")
    return {match[1]: aliases for match, aliases in zip(found, shown, strict=True) if match}


def test_a_wrong_value_in_the_form_ends_in_the_line_of_the_command_line(person: Person) -> None:
    compare(person, training={"max_stepz": 6})
    assert person.wait_for_state("Failed", "Completed", "Crashed") == "Failed"
    expect(person.page.get_by_text("training.max_stepz: unknown key. Did you mean max_steps?").first).to_be_visible()
    person.look("failed")


@pytest.fixture(scope="module")
def compared(browser: Browser, stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A comparison triggered from the form and watched to its end: its flow run, and what its card said meanwhile."""
    with person_at(browser, stack, tmp_path_factory.mktemp("compared")) as person:
        flow_run = compare(person, **{"training.max_steps": 6})
        person.open_tab("Artifacts")
        card = (
            person.page.get_by_role("listitem").or_(person.page.locator(".p-card")).filter(has_text="progress-toy-full")
        )
        card.first.wait_for(timeout=END_MILLISECONDS)
        said = card.first.inner_text()
        person.look("progress")
        person.open_run(flow_run)
        assert person.wait_for_state("Completed", "Failed", "Crashed") == "Completed"
        person.look("completed")
    return flow_run, said


def test_the_page_shows_how_far_a_cell_is_while_it_trains(compared: tuple[str, str]) -> None:
    _, said = compared
    assert re.search(r"\b\d+ % full: (waiting|train|merge|evaluate)", said), said


def test_the_table_leads_to_the_cells_run_in_mlflow(person: Person, compared: tuple[str, str]) -> None:
    flow_run, _ = compared
    person.open_run(flow_run)
    person.open_tab("Artifacts")
    person.page.get_by_text("comparison-toy").first.click()
    expect(person.page.get_by_text("Winner by lowest loss: full.").first).to_be_visible()
    picture = person.page.get_by_alt_text("comparison")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 500
    person.look("table")
    person.page.goto(str(person.page.get_by_role("link", name="full", exact=True).first.get_attribute("href")))
    person.page.get_by_text("eval/heldout/loss").first.wait_for()
    person.look("mlflow")


def test_the_first_comparison_finds_no_champion_and_says_nothing_of_an_outage(
    stack: RunningStack, compared: tuple[str, str]
) -> None:
    """MLflow with passwords answers "not allowed" for the version of a model that is not there."""
    assert "is not asked" not in stack.stack.log("worker").read_text(encoding="utf-8")


def test_a_version_goes_from_the_form_through_a_persons_approval_into_production_and_back(
    person: Person, stack: RunningStack, compared: tuple[str, str]
) -> None:
    tuneline(stack, "promote", "toy", "--reason", "the first one")
    compare(person, **{"training.max_steps": 12})
    assert person.wait_for_state("Completed", "Failed", "Crashed") == "Completed"
    assert aliases_of(person) == {"2": "challenger", "1": "champion"}

    person.open_form("promote")
    person.write(model="toy", reason="it is better", gate="asks.yaml")
    promotion = person.submit()
    assert person.wait_for_state("Suspended", "Failed", "Completed", "Crashed") == "Suspended"
    wait_until(lambda: processes_of(promotion) == [])
    person.page.get_by_role("button", name="Resume").first.click()
    expect(person.page.get_by_text("go into production, instead of version 1?")).to_be_visible()
    person.write(Name="Ann", Reason="it answers well")
    person.choose("Decision", "approve")
    person.look("approval")
    person.page.locator(".p-modal").get_by_role("button", name="Submit").click()
    assert person.wait_for_state("Completed", "Failed", "Crashed") == "Completed"
    assert aliases_of(person) == {"2": "challenger champion", "1": "previous"}

    person.open_form("rollback")
    person.write(model="toy", reason="it answers badly")
    person.submit()
    assert person.wait_for_state("Completed", "Failed", "Crashed") == "Completed"
    assert aliases_of(person) == {"2": "challenger", "1": "champion"}
    said = tuneline(stack, "history", "toy", "--verify")
    assert "Ann" in said, said
    assert "it answers badly" in said
    assert "The log of toy is whole, and the registry stands as it says." in said
    told = {
        f"tuneline.{what} tuneline.model.toy"
        for what in ("candidate.registered", "model.promoted", "model.rolled_back")
    }
    wait_until(lambda: set(events(stack)) == told, 60, 1)


def test_a_rejected_promotion_changes_nothing(person: Person, stack: RunningStack, compared: tuple[str, str]) -> None:
    before = aliases_of(person)
    person.open_form("promote")
    person.write(model="toy", reason="once more", gate="asks.yaml")
    person.submit()
    assert person.wait_for_state("Suspended", "Failed", "Completed", "Crashed") == "Suspended"
    person.page.get_by_role("button", name="Resume").first.click()
    person.write(Name="Ben", Reason="not today")
    person.page.locator(".p-modal").get_by_role("button", name="Submit").click()
    assert person.wait_for_state("Failed", "Completed", "Crashed") == "Failed"
    expect(person.page.get_by_text("rejected by Ben: not today").first).to_be_visible()
    assert aliases_of(person) == before


def test_a_version_is_served_from_the_stack_with_the_workers_password(
    stack: RunningStack, compared: tuple[str, str]
) -> None:
    port = str(free_port())
    with started(stack.folder, "serve", "toy@challenger", "--port", port, **stack.client_environment()) as process:
        assert process.stdout is not None
        said = next((line for line in process.stdout if line.startswith("Ask it")), "")
        assert said, process.communicate()
        answered = ask(f"http://127.0.0.1:{port}", {"dataframe_records": [{"prompt": "w3 w4"}]})
    assert isinstance(answered["predictions"][0], str)
