"""`tuneline promote`, `tuneline rollback`, `tuneline history`."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from configs.gate import ask_for, nominated
from flows.guarding import log_to
from flows.orchestration import configure_prefect, prefect_server, wait_for_server
from tasks.foundation import faults
from tasks.foundation.errors import ConfigError, IntegrityError
from tasks.promotion.ask import Ask

LOG = Path("promotions") / "log.txt"


def promote_version(ask: Ask, console: Console) -> int:
    """Promote by a flow run of this process, or, where a person has to agree, by one of the deployment.

    Raises:
        TunelineError: it was not promoted; the exit code tells why.
    """
    faults.arm()
    log_to(ask.runs / LOG)
    configure_prefect(ask.runs / "prefect")
    parameters = {"model": ask.model, "reason": ask.reason, "version": ask.version, "alias": ask.alias}
    parameters["gate"] = ask.gate.path if ask.gate else ""
    with prefect_server(ask.runs / "prefect-server.log") as own:
        from flows.deployed import start_deployed
        from flows.ending import run_to_its_end
        from flows.promote import promote
        from tasks.promotion.promote import Promotion, asks_a_person

        wants_person = asks_a_person(ask)
        wait_for_server(own, functools.partial(console.print, markup=False, highlight=False, soft_wrap=True))
        if wants_person:
            page = start_deployed("promote/promote", parameters, own_server=own is not None)
            console.print(f"A person has to approve: {page}", highlight=False, soft_wrap=True)
            return 0
        ending = run_to_its_end(promote, parameters, Promotion)
    console.print(str(ending.outcome), highlight=False, soft_wrap=True)
    return 0


def roll_back_model(model: str, reason: str, version: int, console: Console) -> int:
    """Roll back from this process, without Prefect: it has to work, and at once, when nothing else does.

    Raises:
        TunelineError: nothing was changed; the exit code tells why.
    """
    ask = nominated(ask_for(model, reason, os.environ), version)
    faults.arm()
    log_to(ask.runs / LOG)
    from tasks.promotion.promote import roll_back

    done = roll_back(ask)
    console.print(str(done), highlight=False, soft_wrap=True)
    if "PREFECT_API_URL" in os.environ:
        from flows.announce import ROLLED_BACK, announce

        announce(ROLLED_BACK, done.model, {"version": done.version, "replaced": done.replaced, "reason": ask.reason})
    return 0


def show_history(model: str, console: Console, *, check: bool) -> int:
    """Print the promotion log; with `check` hold it against the registry and the evidence.

    Raises:
        IntegrityError: it does not hold.
    """
    if not model.strip():
        raise ConfigError("no model is named", where="MODEL", fix="Name a registered model")
    ask = ask_for(model, "history", os.environ)
    log_to(ask.runs / LOG)
    from tasks.promotion.history import history, verify

    lines = history(ask)
    if not lines:
        console.print(f"{ask.model} was never promoted by tuneline.", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("#", "when (UTC)", "what", "who", "outcome", "why"):
        table.add_column(title, overflow="fold")
    for line in lines:
        instead = f" (was {line.instead_of})" if line.instead_of else ""
        agreed = f", approved by {line.approved_by}" if line.approved_by else ""
        when = line.at.removesuffix("+00:00").replace("T", " ")
        what = f"{line.action} {line.version or ''}{instead}".strip()
        table.add_row(str(line.number), when, what, line.who + agreed, line.outcome, line.reason)
    if lines:
        console.print(table)
    if check and (found := verify(ask)):
        raise IntegrityError(
            "; ".join(found), where=f"history of {ask.model}", fix="Look at MLflow's page of the model"
        )
    if check:
        console.print(f"The log of {ask.model} is whole, and the registry stands as it says.", highlight=False)
    return 0
