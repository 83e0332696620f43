"""Step 1 of a promotion: the version is held against its gate, and the evidence is laid beside it."""

from __future__ import annotations

from prefect import task

from tasks.page import artifact_key, show
from tasks.promotion.ask import Ask
from tasks.promotion.evidence import to_markdown
from tasks.promotion.promote import Judged
from tasks.promotion.promote import judge as hold_against_gate


@task(name="judge", task_run_name="judge {ask.model}", persist_result=False)
def judge(ask: Ask) -> Judged:
    """Verify the files, try the version out, check everything; a version that does not pass is judged all the same."""
    judged = hold_against_gate(ask)
    verdict = "passed" if judged.evidence.passed else "did not pass"
    about = f"{ask.model} version {judged.version} {verdict} its gate"
    show(to_markdown(judged.evidence), key=artifact_key("gate", ask.model), about=about)
    return judged
