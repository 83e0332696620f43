"""What the card of a cell says, and that nothing waits for a server that does not answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_TO_API_ENABLED, temporary_settings

from flows import progress
from flows.naming import named
from flows.progress import Cards, mirror, per_cent, said
from flows.reconcile import prefect_client
from tasks import page
from tasks.page import artifact_key, show
from tasks.tracking import TrackingSettings
from tasks.tracking.shipper import Shipper
from tasks.train import train
from tasks.workspace import Board, CellState
from tasks.workspace.session import Session
from tests.workspace.worlds import place_in


def state(**given: object) -> CellState:
    return CellState.model_validate({"label": "lora", "phase": "train", "position": 1, **given})


def board_in(folder: Path) -> Path:
    return folder / "reports" / "stories" / "progress"


def session_in(folder: Path) -> Session:
    """With one cell on its board."""
    place = place_in(folder)
    Board(place.board).clear()
    Board(place.board).show(state(done=1, total=2))
    tracking = TrackingSettings(uri=f"sqlite:///{folder}/mlflow.db")
    return Session(place, Shipper(tracking, place.workspace.spool, folder), tracking)


@pytest.mark.parametrize(
    ("seen", "before", "shown"),
    [
        (state(phase="waiting"), 0.0, 0.0),
        (state(), 0.0, 0.0),
        (state(done=3, total=6), 0.0, 40.0),
        (state(done=2, total=6), 40.0, 26.7),  # it started again from its checkpoint
        (state(phase="waiting"), 80.0, 80.0),
        (state(phase="merge"), 80.0, 80.0),
        (state(phase="evaluate", done=6, total=12), 85.0, 92.5),
        (state(phase="failed"), 26.7, 26.7),
        (state(phase="done"), 0.0, 100.0),
    ],
)
def test_the_bar_says_how_much_of_its_way_a_cell_has_behind_it(seen: CellState, before: float, shown: float) -> None:
    assert per_cent(seen, before) == shown


def test_the_card_says_phase_step_loss_and_remaining_time() -> None:
    seen = state(done=3, total=6, loss=1.5, seconds_left=65)
    assert said(seen, 40.0) == "**40 %** lora: train 3/6 loss 1.500 1:05 left"


def test_the_card_of_a_failed_cell_holds_no_password_and_no_html() -> None:
    seen = state(phase="failed", detail="http://anna:s3cret@server <b>says</b> no")
    assert said(seen, 0.0) == "**0 %** lora: failed (http://***@server &lt;b>says&lt;/b> no)"


def test_keys_are_such_as_prefect_takes() -> None:
    assert artifact_key("comparison", "My Märchen_2") == "comparison-my-m-rchen-2"


def test_a_name_with_braces_is_taken_as_it_is() -> None:
    assert str(named(train, "train {r}").task_run_name).format() == "train {r}"


@pytest.fixture
def cards(tmp_path: Path, prefect_server: str) -> Iterator[tuple[Cards, SyncPrefectClient, UUID]]:
    """Of a flow run that Prefect's server knows, with its client."""
    with prefect_client() as client:
        run = client.create_flow_run(flow(lambda: None, name="cards")).id
        yield Cards(client, run, session_in(tmp_path)), client, run


def found(client: SyncPrefectClient, run: UUID) -> dict[str, Artifact]:
    these = FlowRunFilter(id=FlowRunFilterId(any_=[run]))
    return {str(artifact.key): artifact for artifact in client.read_artifacts(flow_run_filter=these)}


def test_a_card_is_sent_when_its_cell_has_changed(cards: tuple[Cards, SyncPrefectClient, UUID], tmp_path: Path) -> None:
    mirrored, client, run = cards
    mirrored.bring_up_to_date()
    first = found(client, run)["progress-lora-lora"]
    assert (first.type, first.data) == ("progress", 40.0)
    mirrored.bring_up_to_date()
    assert found(client, run)["progress-lora-lora"].updated == first.updated

    Board(board_in(tmp_path)).show(state(phase="done"))
    mirrored.bring_up_to_date()
    last = found(client, run)["progress-lora-lora"]
    assert (last.id, last.data) == (first.id, 100.0)


def test_a_card_that_somebody_deleted_comes_again_and_holds_up_no_other(
    cards: tuple[Cards, SyncPrefectClient, UUID], tmp_path: Path
) -> None:
    mirrored, client, run = cards
    board = Board(board_in(tmp_path))
    board.show(state(label="other", position=2))
    mirrored.bring_up_to_date()
    client.delete_artifact(found(client, run)["progress-lora-lora"].id)
    for label, position in (("lora", 1), ("other", 2)):
        board.show(state(label=label, position=position, phase="done"))
    mirrored.bring_up_to_date()
    assert found(client, run)["progress-lora-other"].data == 100
    mirrored.bring_up_to_date()
    assert found(client, run)["progress-lora-lora"].data == 100


def test_what_all_cells_share_has_no_card(cards: tuple[Cards, SyncPrefectClient, UUID], tmp_path: Path) -> None:
    mirrored, client, run = cards
    Board(board_in(tmp_path)).show(CellState(label="data and base", phase="prepare"))
    mirrored.bring_up_to_date()
    assert set(found(client, run)) == {"progress-lora-lora"}


def seconds_held_up(folder: Path, silent: str, prefect_server: str) -> float:
    """Of a flow whose server goes silent when it has begun."""
    page._PATIENCE_SECONDS = progress._LAST_LOOK_SECONDS = 0.2
    took: list[float] = []

    @flow(persist_result=False)
    def held_up() -> None:
        os.environ["PREFECT_API_URL"] = silent
        with temporary_settings({PREFECT_API_URL: silent}):
            began = time.monotonic()
            show("text", key="a", about="b")
            with mirror() as mirrored:
                mirrored.follow(session_in(folder))
            took.append(time.monotonic() - began)

    with temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_LOGGING_TO_API_ENABLED: False}):
        held_up()
    return took[0]


def test_a_server_that_does_not_answer_holds_up_neither_a_step_nor_the_end(tmp_path: Path, prefect_server: str) -> None:
    """Prefect's own client would go on for minutes. In a process of its own: a flow leaves threads behind."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            asked = process.submit(seconds_held_up, tmp_path, address, prefect_server)
            assert asked.result() < 5
