"""The pages that `tuneline ui` serves, opened in a real browser."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import PAGE_MILLISECONDS, chromium, needs_chromium
from tests.flows.test_page import comparison_in
from tests.flows.worlds import cells_of, client, parents_of, runs_of, started
from tests.launch.worlds import wait_until
from tests.ports import free_port

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), needs_chromium]
OPEN_CHILDREN = "[role=row] button[data-component-id*=runnamecellrenderer]"
"""The little plus in front of a parent run."""


@pytest.fixture(scope="module")
def pages(finished: tuple[Path, str], mlflow_url: str) -> Iterator[tuple[Path, str]]:
    """`tuneline ui` over the finished run; the folder and MLflow's address."""
    folder, _ = finished
    mlflow, prefect = mlflow_url.rpartition(":")[2], str(free_port())
    with started(folder, "ui", "--mlflow-port", mlflow, "--prefect-port", prefect) as process:
        assert process.stdout is not None
        assert mlflow_url in process.stdout.readline()
        yield folder, mlflow_url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1500, "height": 900})
    opened.set_default_timeout(PAGE_MILLISECONDS)
    yield opened
    opened.close()


def test_mlflow_shows_the_parent_with_its_cells_as_flat_rows(
    pages: tuple[Path, str], page: Page, tmp_path: Path
) -> None:
    folder, address = pages
    experiment = client(folder).get_experiment_by_name("toy")
    assert experiment is not None
    page.goto(f"{address}/#/experiments/{experiment.experiment_id}/runs")
    page.locator(OPEN_CHILDREN).last.click()  # the oldest parent stands last
    for label in ("toy", "full", "lora", "prompt_tuning"):
        page.get_by_role("link", name=label, exact=True).first.wait_for()
    page.screenshot(path=tmp_path / "runs.png")


def test_mlflow_shows_a_cells_metrics_and_parameters(pages: tuple[Path, str], page: Page) -> None:
    folder, address = pages
    runs = runs_of(client(folder))
    lora = cells_of(runs, parents_of(runs)[0])["lora"]
    page.goto(f"{address}/#/experiments/{lora.info.experiment_id}/runs/{lora.info.run_id}")
    page.get_by_text("eval/heldout/loss").first.wait_for()
    page.get_by_text("method.r", exact=True).first.wait_for()


def test_mlflow_shows_the_registered_version_with_its_alias(pages: tuple[Path, str], page: Page) -> None:
    _, address = pages
    page.goto(f"{address}/#/models/toy")
    page.get_by_text("@ challenger").first.wait_for()


def test_prefect_shows_the_flow_run_by_its_name(prefect_server: str, finished: tuple[Path, str], page: Page) -> None:
    page.goto(prefect_server.removesuffix("/api") + "/runs")
    page.get_by_text("compare toy.yaml").first.wait_for()


def test_the_comparison_in_prefect_has_its_picture_and_leads_to_the_run_in_mlflow(
    prefect_server: str, pages: tuple[Path, str], page: Page
) -> None:
    folder, address = pages
    runs = runs_of(client(folder))
    lora = cells_of(runs, parents_of(runs)[0])["lora"].info.run_id
    page.goto(
        f"{prefect_server.removesuffix('/api')}/artifacts/artifact/{comparison_in(prefect_server, address)['id']}"
    )
    picture = page.get_by_alt_text("comparison")
    picture.wait_for()
    assert picture.evaluate("image => image.naturalWidth") > 500
    link = page.get_by_role("link", name="lora", exact=True)
    assert str(link.get_attribute("href")).endswith(f"/runs/{lora}")
    page.goto(str(link.get_attribute("href")))
    page.get_by_text("eval/heldout/loss").first.wait_for()


def test_ui_ends_both_servers_when_it_is_told_to(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    mlflow, prefect = free_port(), free_port()
    with started(folder, "ui", "--mlflow-port", str(mlflow), "--prefect-port", str(prefect)) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        wait_until(lambda: not any(_listens(port) for port in (mlflow, prefect)))
    assert process.returncode == 143


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
