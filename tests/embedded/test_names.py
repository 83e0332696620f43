"""Names of places."""

import pytest

from tasks.embedded.chinese import CHINESE
from tasks.embedded.english import ENGLISH
from tasks.embedded.language import Language
from tasks.embedded.names import names_of


@pytest.mark.parametrize("language", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_every_name_belongs_to_one_split(language: Language) -> None:
    train, dev, test = (set(names_of(language, split)) for split in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (320, 40, 40)
    assert not (train & dev or train & test or dev & test)


@pytest.mark.parametrize("language", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_both_halves_of_a_held_out_name_are_known_from_training(language: Language) -> None:
    train = names_of(language, "train")
    for first in language.first_names:
        assert any(name.startswith(first) for name in train)
    for second in language.second_names:
        assert any(name.endswith(second) for name in train)
