"""Whatever the file or the overrides hold: an experiment, or an error of ours on one line."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from configs.experiment import Experiment
from configs.loading import load_experiment
from configs.schema import key_paths
from configs.wording import key_text
from tasks.foundation.errors import ConfigError
from tests.configs.worlds import SMALL

KEYS = [key_text(path) for path in key_paths(Experiment)]
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["lora", "1e-3", "none"]),
)
names = st.one_of(st.sampled_from([key.rpartition(".")[2] for key in KEYS] + ["kind", "r", "lr"]), st.text(max_size=8))
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
snippets = st.sampled_from(
    [
        "&a ",
        "*a",
        "<<: *a",
        "!!python/object:os.system ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "\n  ",
        "'",
        '"',
        "|\n",
        "\t",
        "---\n",
        "? ",
        "#",
        "%",
        "@",
        "`",
        "1e-3",
        "model",
        "methods",
        "kind: lora",
        "\x00",
        "\u2028",
        "é",
    ]
)


def ends_well(raw: bytes, overrides: Sequence[str] = ()) -> bool:
    """An experiment, or an error that a terminal can show on one line; any other exception is raised on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_bytes(raw)
        try:
            return isinstance(load_experiment(path, overrides, {}), Experiment)
        except ConfigError as error:
            line = str(error).encode("utf-8").decode("utf-8")
            return error.exit_code == 10 and len(line.splitlines()) == 1


@FEW
@given(st.binary(max_size=200))
def test_random_bytes(raw: bytes) -> None:
    assert ends_well(raw)


@FEW
@given(st.lists(snippets | st.text(max_size=5), max_size=30))
def test_random_pieces_of_yaml(pieces: list[str]) -> None:
    assert ends_well("".join(pieces).encode("utf-8", "surrogatepass"))


@FEW
@given(st.dictionaries(st.sampled_from(list(Experiment.model_fields)) | names, values, max_size=6))
def test_random_values_under_real_keys(data: dict[str, object]) -> None:
    assert ends_well(yaml.safe_dump(data, allow_unicode=True).encode("utf-8", "surrogatepass"))


@FEW
@given(st.integers(0, len(SMALL) - 1), st.binary(max_size=4), st.integers(0, 3))
def test_a_good_file_with_one_wound(place: int, inserted: bytes, removed: int) -> None:
    raw = SMALL.encode()
    assert ends_well(raw[:place] + inserted + raw[place + removed :])


@FEW
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.builds(
                lambda key, value: f"{key}={value}",
                st.sampled_from([*KEYS, "methods.1.r", "methods[0]", "methods.lora", "data.train[0].path"]),
                scalars | st.text(max_size=10),
            ),
        ),
        max_size=4,
    )
)
def test_random_overrides(overrides: list[str]) -> None:
    assert ends_well(SMALL.encode(), overrides)
