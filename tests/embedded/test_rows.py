"""Rows of the embedded tasks."""

import re
import subprocess
import sys

import pytest

from tasks.embedded import TASKS, Split, task_rows
from tasks.embedded.chinese import CHINESE
from tasks.embedded.english import ENGLISH
from tasks.embedded.language import Language
from tasks.embedded.names import names_of
from tasks.foundation.digests import digest_value
from tasks.foundation.errors import ConfigError

SPLITS: tuple[Split, ...] = ("train", "dev", "test")

DIGESTS = {
    "records-en": "00c858d59de9ced2c8d48c74766090a116eb28a07aa8681b69a0a7bedaf72ebe",
    "records-zh": "0b19c3df1ef629111c66cb03c52e4ba562934a0837792e6a088d144b8a7dc125",
    "sentiment-en": "b10b60ce0a920db668eec56b450b16f1d19b3d89b7b9c4b0bd406e42bb1746a5",
    "sentiment-zh": "e3dd3a265dda226191522558c605361abfe815530dac21505317ea563443411b",
}
"""Of all rows of all splits: a change moves every number that was ever reported on them."""


def language_of(task: str) -> Language:
    return ENGLISH if task.endswith("-en") else CHINESE


@pytest.mark.parametrize("task", TASKS)
def test_rows_never_change(task: str) -> None:
    assert digest_value({split: list(task_rows(task, split)) for split in SPLITS}) == DIGESTS[task]


@pytest.mark.parametrize("task", TASKS)
def test_rows_do_not_depend_on_who_drew_before(task: str) -> None:
    first = list(task_rows(task, "dev"))
    next(task_rows(task, "train"))
    assert list(task_rows(task, "dev")) == first


@pytest.mark.parametrize("task", TASKS)
def test_splits_have_their_sizes_and_share_no_row(task: str) -> None:
    rows = {split: [tuple(row.items()) for row in task_rows(task, split)] for split in SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {"train": 2000, "dev": 200, "test": 200}
    assert len({row for found in rows.values() for row in found}) == 2400


@pytest.mark.parametrize("task", TASKS)
def test_a_row_only_holds_names_of_its_own_split(task: str) -> None:
    language = language_of(task)
    for split in SPLITS:
        own = names_of(language, split)
        others = [name for other in SPLITS if other != split for name in names_of(language, other)]
        for row in task_rows(task, split):
            assert any(name in row["prompt"] for name in own)
            assert not any(name in row["prompt"] + row["completion"] for name in others)


@pytest.mark.parametrize("task", ["records-en", "records-zh"])
def test_a_record_parses_and_its_text_says_every_value_but_the_mapped_one(task: str) -> None:
    language = language_of(task)
    mapped = language.records.slots[-1]
    for row in task_rows(task, "dev"):
        facts = dict(re.findall(r"([^\[\],]+)\[\s*([^\]]+)\]", row["prompt"].replace(", ", ",")))
        assert {language.records.name_key, language.records.kind_key} <= facts.keys()
        for key, value in facts.items():
            assert (mapped.sentences[value] if key == mapped.key else value) in row["completion"]


@pytest.mark.parametrize("task", ["records-en", "records-zh"])
def test_only_one_slot_is_a_mapping(task: str) -> None:
    slots = language_of(task).records.slots
    assert [slot.key for slot in slots if not all(value in said for value, said in slot.sentences.items())] == [
        slots[-1].key
    ]


@pytest.mark.parametrize("task", ["sentiment-en", "sentiment-zh"])
def test_a_review_gets_the_label_that_its_words_deserve(task: str) -> None:
    style = language_of(task).reviews
    expected = {(2, 0): style.positive, (0, 2): style.negative, (1, 1): style.mixed}
    labels = set()
    for row in task_rows(task, "test"):
        good, bad = (sum(row["prompt"].count(word) for word in words) for words in (style.good, style.bad))
        assert row["completion"] == expected[good, bad]
        labels.add(row["completion"])
    assert labels == set(expected.values())


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="records-en, records-zh, sentiment-en, sentiment-zh"):
        task_rows("records-fr", "train")


def test_rows_and_key_need_no_torch() -> None:
    code = (
        "import sys, tasks.embedded as e; next(e.task_rows('records-en', 'dev')); e.embedded_key(); e.probe_text(); "
        "assert not {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
