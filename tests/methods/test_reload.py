"""What was saved is what was trained, seen from a process that has never heard of the training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.methods import Candidate
from tasks.models import BaseModel
from tests.methods.cases import Settings, attached, case_name, save, train, trainable_cases
from tests.methods.conftest import Homes
from tests.methods.reloading import CANDIDATE, Answers, answers_in, answers_of, ask_in_a_new_process

CLOSE = 1e-6


@pytest.fixture(scope="module")
def asked_twice(
    home_of: Homes, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Callable[[Settings], tuple[Answers, Answers]]:
    """Case -> the answers after training, and those of one new process that loads the folders of all cases."""
    wanted = [item.callspec.params["settings"] for item in request.session.items if item.path == request.path]
    places = {case_name(case): tmp_path_factory.mktemp("case") for case in wanted}
    before: dict[str, Answers | Exception] = {}
    for case in wanted:
        try:
            before[case_name(case)] = _train_and_save(case, home_of(case), places[case_name(case)])
        except Exception as failure:  # of one case: it fails its own test
            before[case_name(case)] = failure
    ask_in_a_new_process(next(iter(places.values())).parent)

    def asked(case: Settings) -> tuple[Answers, Answers]:
        trained = before[case_name(case)]
        if isinstance(trained, Exception):
            raise trained
        return trained, answers_in(places[case_name(case)])

    return asked


def _train_and_save(case: Settings, base: BaseModel, place: Path) -> Answers:
    method, model = attached(case, base)
    train(model, method=method)
    (place / "weights").mkdir()
    save(method, model, place / "weights")
    candidate = Candidate(
        label="x",
        base=base,
        method=method.model_dump(mode="json"),
        weights=place / "weights",
        holds=method.holds,
    )
    (place / CANDIDATE).write_text(candidate.model_dump_json(), encoding="utf-8")
    return answers_of(model)


@pytest.mark.parametrize("settings", trainable_cases(), ids=case_name)
def test_a_new_process_gives_the_same_logits_and_writes_the_same_text(
    settings: Settings, asked_twice: Callable[[Settings], tuple[Answers, Answers]]
) -> None:
    trained, reloaded = asked_twice(settings)
    largest = float((trained.logits - reloaded.logits).abs().max() / trained.logits.abs().max())
    assert largest <= CLOSE
    assert torch.equal(trained.written, reloaded.written)
    assert trained.written.shape[1] > 6
