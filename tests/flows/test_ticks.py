"""Schedules on a real server with a real worker: a run per tick, never two at a time, one for all that were missed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from tests.flows.orchestrated import World, wait_for, worker_world
from tests.flows.ticking import tick

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]
MISSED = 3
SECONDS_BETWEEN = 12


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return worker_world(tmp_path, monkeypatch)


def test_one_run_per_tick_none_beside_another_and_one_for_all_that_an_outage_missed(world: World) -> None:
    often = IntervalSchedule(interval=timedelta(seconds=SECONDS_BETWEEN))
    with world.serving():
        world.deploy(tick, "cron", CronSchedule(cron="* * * * *", timezone="Europe/Berlin"), seconds=1)
        world.deploy(tick, "long", often, seconds=2 * SECONDS_BETWEEN)
        wait_for(lambda: len(world.ran("cron")) >= 2 and len(world.ran("long")) >= 3)
        world.stop("cron")
        world.stop("long")
        world.deploy(tick, "short", often, seconds=0)
        wait_for(lambda: bool(world.ran("short")))
        wait_for(lambda: "Running" not in [state for state, _ in world.states("short")])
    down = time.time()
    time.sleep((MISSED + 1) * SECONDS_BETWEEN)
    up = time.time()
    with world.serving():
        wait_for(lambda: any(ran["due"] > up for ran in world.ran("short")))
        states = world.states("short")

    for name in ("cron", "long", "short"):
        ran = world.ran(name)
        assert len({each["due"] for each in ran}) == len(ran), "a tick ran twice"
        assert alone(ran)
    assert all(each["due"] % 60 == 0 for each in world.ran("cron"))
    assert all(later["due"] - earlier["due"] == 60 for earlier, later in itertools.pairwise(world.ran("cron")))
    missed = [state for state, due in states if down < due < up]
    assert len(missed) >= MISSED
    assert sum(1 for ran in world.ran("short") if down < ran["due"] < up) <= 1
    assert sorted(set(missed)) in (["Completed", "Superseded"], ["Superseded"])


def alone(ran: Sequence[dict[str, Any]]) -> bool:
    return all(earlier["ended"] <= later["begun"] for earlier, later in itertools.pairwise(ran))
