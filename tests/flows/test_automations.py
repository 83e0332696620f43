"""The automations of `tuneline setup-orchestration` on a real server with a real worker, with short times."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from flows.automations import automations, ensure_automation
from flows.reconcile import prefect_client, reconcile_left_open
from tests.flows.orchestrated import World, wait_for, worker_world
from tests.flows.ticking import fail, stall

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return worker_world(tmp_path, monkeypatch)


def test_a_failure_and_a_run_without_progress_are_each_followed_by_reconcile(world: World) -> None:
    with world.serving(), prefect_client() as client:
        flows = {"promote": fail, "fine-tune": stall, "reconcile": reconcile_left_open}
        ids = {name: world.deploy(flow, name) for name, flow in flows.items()}
        for automation in automations(ids, timedelta(seconds=20), None):
            ensure_automation(client, automation)

        def states(flow: str, name: str) -> list[str]:
            return [state for state, _ in world.states(name, flow)]

        client.create_flow_run_from_deployment(ids["promote"])
        wait_for(lambda: states("reconcile", "reconcile") == ["Completed"])
        assert states("fail", "promote") == ["Failed"]

        client.create_flow_run_from_deployment(ids["fine-tune"])
        wait_for(lambda: states("stall", "fine-tune") == ["Crashed"])
        wait_for(lambda: len(states("reconcile", "reconcile")) > 1)
