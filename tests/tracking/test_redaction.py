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
        ("postgresql://u:se/cr?e#t@db:5432/mlflow", "postgresql://***@db:5432/mlflow"),
        ("postgresql://db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("mysql+pymysql://db/m?user=u&password=secret&x=1", "mysql+pymysql://db/m?user=u&password=***&x=1"),
        ("https://host/f?X-Amz-Signature=ab12&part=3", "https://host/f?X-Amz-Signature=***&part=3"),
        ("what is a token=word? tokens & more", "what is a token=word? tokens & more"),
    ],
)
def test_user_and_password_of_every_uri_are_blotted_out_and_nothing_else(text: str, expected: str) -> None:
    assert redact(text) == expected
