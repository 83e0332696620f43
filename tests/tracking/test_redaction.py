"""No password gets out."""

from __future__ import annotations

import pytest

from tasks.tracking import redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://user:secret@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://u:p%40ss@db/mlflow?a=b@c", "postgresql+psycopg2://***@db/mlflow?a=b@c"),
        ("https://token@host", "https://***@host"),
        ("http://u:p@ss@host", "http://***@host"),
        ("failed: http://a:b@c and https://d:e@f.", "failed: http://***@c and https://***@f."),
        ("https://host/@someone and me@mail.org", "https://host/@someone and me@mail.org"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ],
)
def test_user_and_password_of_every_uri_are_blotted_out_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text) == expected
