"""Progress on Prefect's page: an artifact per cell, which one thread brings up to date from the board.

A courtesy: nothing waits for it but the end of the flow, and that for seconds only. Neither training nor any step
knows of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from types import MappingProxyType
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.runtime import flow_run

from flows.reconcile import prefect_client
from flows.view import line
from tasks.page import artifact_key, linked
from tasks.tracking import redact
from tasks.workspace.board import CellState, read_board
from tasks.workspace.session import Session

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 5.0
"""Every change is an event of Prefect's as well: more often would fill its database, and nobody reads faster."""
_LAST_LOOK_SECONDS = 3.0
"""How long the end of the flow waits until the page shows how the cells ended."""
_SHARES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"train": (0.0, 80.0), "merge": (80.0, 85.0), "evaluate": (85.0, 100.0), "done": (100.0, 100.0)}
)
"""From where to where a phase moves the bar of its cell, in per cent: a rule of thumb, training takes most of it."""


class Mirror:
    """Brings a session's board to Prefect's page, from `follow` to the end of the `mirror` block."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble = ""

    def follow(self, here: Session) -> None:
        """Begin; without a flow run of Prefect's there is no page."""
        if flow_run.id is not None:
            work = copy_context().run
            self._thread = threading.Thread(target=work, args=(self._work, here), name="prefect-page", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Show how the cells ended; a server that does not answer is left alone."""
        self._stop.set()
        if self._thread:
            self._thread.join(_LAST_LOOK_SECONDS)

    def _work(self, here: Session) -> None:
        try:
            with prefect_client() as client:
                cards = Cards(client, UUID(flow_run.id), here)
                while not self._stop.wait(_SECONDS_BETWEEN_LOOKS):
                    self._look(cards)
                self._look(cards)
        except Exception as error:  # the thread's outermost frame
            log.warning("Prefect's page shows no progress: %s: %s", type(error).__name__, redact(str(error)))

    def _look(self, cards: Cards) -> None:
        try:
            cards.bring_up_to_date()
        except Exception as error:  # whatever keeps Prefect from taking it now; what was not sent is sent next time
            if (trouble := f"{type(error).__name__}: {redact(str(error))}") != self._trouble:
                log.warning("Prefect's page shows no progress now: %s", trouble)
            self._trouble = trouble
        else:
            self._trouble = ""


@contextmanager
def mirror() -> Iterator[Mirror]:
    """Around the session, so that the page learns also how a flow ended that was broken off."""
    mirrored = Mirror()
    try:
        yield mirrored
    finally:
        mirrored.end()


class Cards:
    """The artifacts of one flow run: of each cell, and the link to its run in MLflow."""

    def __init__(self, client: SyncPrefectClient, flow_run_id: UUID, here: Session) -> None:
        self._client = client
        self._flow_run_id = flow_run_id
        self._here = here
        self._ids: dict[str, UUID] = {}
        self._shown: dict[str, ArtifactUpdate] = {}
        self._per_cent: dict[str, float] = {}
        self._linked = False

    def bring_up_to_date(self) -> None:
        """Send what changed since the last time.

        Raises:
            Exception: the server does not take it, for whatever reason its client has.
        """
        if not self._linked and (page := self._here.page_of(self._here.place.run)):
            link = linked(f"{self._here.place.run.name} in MLflow", page)
            self._create(artifact_key("mlflow", self._here.place.run.name), "markdown", link, link)
            self._linked = True
        for state in read_board(self._here.place.board):
            if state.position:  # what all cells share is no cell
                self._show(state)

    def _show(self, state: CellState) -> None:
        done = per_cent(state, self._per_cent.get(state.label, 0.0))
        self._per_cent[state.label] = done
        card = ArtifactUpdate(data=done, description=said(state, done))
        if self._shown.get(state.label) == card:
            return
        key = artifact_key("progress", self._here.place.run.name, state.label)
        try:
            if state.label in self._ids:
                self._client.update_artifact(self._ids[state.label], card)
            else:
                self._ids[state.label] = self._create(key, "progress", done, said(state, done))
            self._shown[state.label] = card
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
            self._ids.pop(state.label, None)  # somebody has deleted it: the next look makes it again

    def _create(self, key: str, kind: str, data: str | float, about: str) -> UUID:
        new = ArtifactCreate(key=key, type=kind, data=data, description=about, flow_run_id=self._flow_run_id)
        created: UUID = self._client.create_artifact(new).id
        return created


def per_cent(state: CellState, before: float) -> float:
    """How much of its way a cell has behind it; one that waits or failed stands where it stood before."""
    if state.phase not in _SHARES:
        return before
    begin, end = _SHARES[state.phase]
    if not state.total:
        return max(before, begin)
    return round(begin + (end - begin) * state.done / state.total, 1)


def said(state: CellState, done: float) -> str:
    """The card's text, which is Markdown: an error may hold what looks like HTML."""
    return f"**{done:.0f} %** {redact(line(state)).replace('<', '&lt;')}"
