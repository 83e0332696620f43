"""Which server it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.foundation.errors import ConfigError
from tasks.tracking import TrackingSettings, tracking_uri
from tasks.tracking.uri import destination


def test_the_environment_wins_where_the_experiment_sets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000/")

    assert tracking_uri(TrackingSettings()) == "http://elsewhere:5000"
    assert tracking_uri(TrackingSettings(uri="http://here:5000")) == "http://here:5000"


def test_a_relative_database_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert tracking_uri(TrackingSettings()) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(TrackingSettings(uri="sqlite:////abs/a.db?timeout=9")) == "sqlite:////abs/a.db?timeout=9"


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "file:///tmp/mlruns", "sqlite://", "sqlite:///:memory:", "ftp://a"]
)
def test_what_mlflow_cannot_keep_runs_in_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        tracking_uri(TrackingSettings(uri=uri))


def test_a_server_stays_the_same_when_its_password_changes() -> None:
    assert destination("http://u:old@host:5000") == destination("http://u:new@host:5000")
    assert destination("http://u:old@host:5000") != destination("http://u:old@host:5001")
