"""The table of familiar names stays true."""

from __future__ import annotations

import pytest

from configs.aliases import ADVICE, ALIASES, METHOD
from configs.experiment import Experiment
from configs.schema import key_paths
from configs.wording import key_text
from tasks.data.settings import DataSource
from tasks.launch import all_launchers
from tasks.methods import all_methods

KEYS = {key_text(path) for path in key_paths(Experiment)}
KEYS |= {f"distributed.{key}" for launcher in all_launchers().values() for key in launcher.model_fields}
OF_METHODS = {name for method in all_methods() for name in method.model_fields}
TARGETS = sorted({target for targets in ALIASES.values() for target in targets.split()})


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_is_a_key_that_exists(target: str) -> None:
    section, _, name = target.rpartition(".")
    if section == METHOD:
        assert name in OF_METHODS
    elif section == "data.train[]":
        assert name in DataSource.model_fields
    else:
        assert target in KEYS


def test_no_familiar_name_is_one_of_ours_in_the_section_that_it_points_to() -> None:
    for name, targets in ALIASES.items():
        for target in targets.split():
            assert target.rpartition(".")[2] != name


def test_advice_and_aliases_do_not_contradict_each_other() -> None:
    assert not set(ADVICE) & set(ALIASES)
    assert not set(ADVICE) & {key.rpartition(".")[2] for key in KEYS}
