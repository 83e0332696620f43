"""What a person does in the pages of the stack: log in, fill in forms, look, click."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, HttpCredentials, Locator, Page

from tests.browser import PAGE_MILLISECONDS
from tests.services.stack import RunningStack

END_MILLISECONDS = 400_000
"""A comparison of tiny models on a busy machine."""


@dataclass(frozen=True)
class Person:
    """Logged in at both servers."""

    page: Page
    prefect: str
    mlflow: str
    pictures: Path

    def look(self, name: str) -> None:
        """Keep a picture of what is on the screen."""
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def open_form(self, deployment: str) -> None:
        """The form of a deployment, found as a person finds it: by its name in the list."""
        self.page.goto(f"{self.prefect}/deployments")
        found = self.page.locator("a[href*='/deployments/deployment/']")  # its flow may have the same name
        link = found.filter(has_text=re.compile(rf"^\s*{deployment}\s*$")).first.get_attribute("href")
        self.page.goto(f"{self.prefect}{link}")  # the list is drawn anew meanwhile, and a click on it may get lost
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        self.page.get_by_text("Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()

    def field(self, label: str) -> Locator:
        """The part of a form below a label."""
        named = self.page.locator(".schema-form-property__label", has_text=re.compile(rf"^{label}( \(Optional\))?$"))
        return self.page.locator(".p-label.schema-form-property").filter(has=named)

    def write(self, **texts: str) -> None:
        """Into fields of text, of numbers or of JSON."""
        for label, text in texts.items():
            self.field(label).locator("textarea, input").first.fill(text)

    def choose(self, label: str, value: str) -> None:
        """From a drop-down. A click on its arrows opens it; one on its text does nothing, in all of Prefect's."""
        self.field(label).locator(".p-select-button__icon").click()
        self.page.locator(".p-select-option", has_text=re.compile(rf"^{re.escape(value)}$")).click()

    def submit(self) -> str:
        """Send the form of a deployment, and open the flow run that was made; returns its id."""
        with self.page.expect_response(re.compile("/create_flow_run$")) as answered:
            self.page.get_by_role("button", name="Submit").click()
        made = str(answered.value.json()["id"])
        self.open_run(made)
        return made

    def open_run(self, flow_run: str) -> None:
        self.page.goto(f"{self.prefect}/runs/flow-run/{flow_run}")

    def cancel(self) -> None:
        """The open flow run."""
        self.page.get_by_role("button", name="Cancel", exact=True).click()
        self.page.locator(".p-modal").get_by_role("button", name="Confirm").click()

    def open_tab(self, name: str) -> None:
        """Of the open flow run."""
        self.page.locator(".p-tabs").get_by_text(name, exact=True).click()

    def wait_for_state(self, *names: str) -> str:
        """Until the open flow run is in one of these states; returns which."""
        badge = self.page.locator(".state-badge").first
        badge.filter(has_text=re.compile("|".join(names))).wait_for(timeout=END_MILLISECONDS)
        return badge.inner_text().strip()


@contextmanager
def person_at(browser: Browser, team: RunningStack, pictures: Path) -> Iterator[Person]:
    """A person with an open page, who has logged in."""
    place = team.stack.place
    password = team.secrets["mlflow-admin"]
    credentials = HttpCredentials(username="admin", password=password, origin=place.mlflow_page, send=None)
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, http_credentials=credentials)
    page = context.new_page()
    page.set_default_timeout(PAGE_MILLISECONDS)
    person = Person(page, place.prefect_page, place.mlflow_page, pictures)
    page.goto(person.prefect)
    page.get_by_placeholder("admin:pass").fill(team.secrets["prefect-auth"])
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Deployments").wait_for()
    yield person
    context.close()
